"""Speech of the demo corpus: the engine's times against the sound, labels, splits."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from ssl_audio.data.demo import speech
from ssl_audio.data.demo.espeak import Espeak, Mark, Utterance
from ssl_audio.data.demo.phrases import PHRASES
from ssl_audio.data.demo.speech import (
    LANGUAGES,
    VOICES,
    broad_phone,
    is_nucleus,
    phone_spans,
    word_spans,
)


@pytest.fixture(scope="module")
def engine() -> Espeak:
    return Espeak(seed=0)


@pytest.mark.parametrize(
    ("label", "broad", "nucleus"),
    [
        ("ˈiː", "i", True),
        ("əʊ", "əʊ", True),
        ("ˈɛ̃", "ɛ̃", True),
        ("m̩", "m", True),
        ("tʃʲ", "tʃ", False),
        ("s.", "ʂ", False),
        ("tɕh", "tɕ", False),
        ("kʰ", "k", False),
        ("h", "h", False),
        ("", "sil", False),
    ],
)
def test_broad_phones_and_nuclei(label, broad, nucleus):
    assert broad_phone(label) == broad
    assert is_nucleus(label) is nucleus


def test_every_voice_speaks_every_language(engine):
    """A wrong name would silently fall back to the plain voice: the sound has to differ."""
    for language in LANGUAGES:
        text = PHRASES[language].sentence(17)
        plain = engine.synthesize(text, language)
        assert len(plain.phones) > 10
    sounds = [engine.synthesize("ma ma ma ma", f"en+{voice}").samples for voice in VOICES]
    spectra = [np.log(np.abs(np.fft.rfft(s / 1.0, 16_384)[:4096]) + 1) for s in sounds]
    smooth = np.array([spectrum.reshape(64, 64).mean(1) for spectrum in spectra])
    distance = np.abs(smooth[:, None] - smooth[None]).mean(-1) + 10 * np.eye(len(VOICES))
    assert distance.min() > 0.05


def test_unknown_voice_is_named(engine):
    with pytest.raises(ValueError, match="klingonese"):
        engine.synthesize("hello", "klingonese")


@pytest.mark.parametrize("words_per_minute", [120, 220])
def test_phone_times_fit_the_sound(engine, words_per_minute):
    """Shifting the labels by 20 ms either way must explain the spectrum worse."""
    frames: list[np.ndarray] = []
    times: list[np.ndarray] = []
    spans = []
    for index in range(0, 1200, 200):
        text = PHRASES["en"].sentence(index)
        utterance = engine.synthesize(text, "en+m3", words_per_minute)
        hop, rate = 110, utterance.sample_rate_hz
        samples = utterance.samples.astype(np.float64)
        starts = np.arange(0, len(samples) - 330, hop)
        windows = np.stack([samples[s : s + 330] for s in starts]) * np.hanning(330)
        power = np.abs(np.fft.rfft(windows)) ** 2
        frames.append(np.log(power[:, :160].reshape(len(starts), 20, 8).mean(-1) + 10))
        times.append(starts + 165)
        spans.append(utterance.phones)

    def within_phone_scatter(shift_sec: float) -> float:
        by_phone: dict[str, list[np.ndarray]] = {}
        for features, centers, phones in zip(frames, times, spans, strict=True):
            edges = [mark.sample for mark in phones]
            index = np.searchsorted(edges, centers - shift_sec * rate, side="right") - 1
            for feature, i in zip(features[index >= 0], index[index >= 0], strict=True):
                by_phone.setdefault(phones[i].label, []).append(feature)
        return sum(float(np.var(f, axis=0).sum()) * len(f) for f in by_phone.values())

    scatter = within_phone_scatter(0.0)
    assert scatter < 0.9 * within_phone_scatter(0.02)
    assert scatter < 0.9 * within_phone_scatter(-0.02)


def test_words_are_those_of_the_text(engine):
    text = "The old teacher reads a letter in the garden."
    utterance = engine.synthesize(text, "en+f3")
    words = word_spans(utterance.words, phone_spans(utterance))
    assert [word for word, _, _ in words] == [
        "the",
        "old",
        "teacher",
        "reads",
        "a",
        "letter",
        "in the",
        "garden",
    ]
    assert all(a[2] <= b[1] for a, b in pairwise(words))


def test_unnamed_stretches_join_or_become_pauses():
    samples = np.zeros(30_000, np.int16)
    samples[2000:3000] = 500
    marks = (
        Mark("a", 0),
        Mark("", 1000),  # silent and short before a consonant: its closure
        Mark("t", 1500),
        Mark("", 2000),  # sounds: belongs to the next phone
        Mark("r", 3000),
        Mark("", 4000),  # silent and long: a pause
        Mark("n", 10_000),
        Mark("ʲ", 11_000),
        Mark("", 12_000),  # nothing follows
    )
    utterance = Utterance(samples, 22_050, marks, ())
    assert phone_spans(utterance) == [
        ("a", 0, 1000),
        ("t", 1000, 2000),
        ("r", 2000, 4000),
        ("", 4000, 10_000),
        ("n", 10_000, 12_000),
        ("", 12_000, 30_000),
    ]


def test_splits_are_balanced_over_languages_and_voices():
    for turn in range(2):
        grid = [[speech._split(row, column, turn) for column in range(12)] for row in range(12)]
        for line in (*grid, *zip(*grid, strict=True)):
            assert Counter(line) == {"train": 7, "valid": 2, "test": 3}


def test_phrases_are_complete_and_distinct():
    for phrases in PHRASES.values():
        sentences = {phrases.sentence(i) for i in range(phrases.num_sentences)}
        assert len(sentences) == phrases.num_sentences >= 1000
