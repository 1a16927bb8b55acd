"""Spoken clips of the demo corpus: twelve languages and voices, labels from the engine's events.

A voice is a set of formants (an eSpeak NG variant); speed, pitch and intonation range are drawn per
clip and the tape runs a little fast or slow, so that neither pitch nor tempo names the voice.
"""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import soxr

from ssl_audio.data.demo.channel import SAMPLE_RATE_HZ, encode_flac, record
from ssl_audio.data.demo.espeak import Espeak, Mark, Utterance
from ssl_audio.data.demo.phrases import PHRASES

LANGUAGES = tuple(PHRASES)
VOICES = ("m1", "m2", "m3", "m4", "m6", "m7", "f1", "f2", "f3", "f4", "f5", "klatt4")
SILENCE = "sil"
MAX_DURATION_SEC = 10.0
# The engine names pauses and the closures and transitions it inserts alike: not at all.
_PAUSE_SEC = 0.08
_VOWELS = frozenset("iyɨʉɯuɪʏʊeøɘɵɤoəɛœɜɞʌɔæɐaɶɑɒᵻ")
_SYLLABIC, _NASAL = "\u0329", "\u0303"
# Where the engine has no IPA it falls back to its own ASCII mnemonics.
_MNEMONICS = (("ts.", "ʈʂ"), ("s.", "ʂ"), ("r.", "ɽ"), ("i.", "ɨ"), ("ss", "s"))
_ASPIRATED = frozenset(("kh", "th", "ph", "tsh", "tɕh", "ʈʂh"))

Span = dict[str, Any]  # label, start_sec, end_sec


def broad_phone(label: str) -> str:
    """The engine's label without stress, length, aspiration and fine diacritics: "ˈiː" is "i".

    Nasal vowels stay apart, "sil" stands for "".
    """
    for mnemonic, ipa in _MNEMONICS:
        label = label.replace(mnemonic, ipa)
    letters = unicodedata.normalize("NFD", label)
    kept = "".join(
        c for c in letters if unicodedata.category(c) in ("Ll", "Lu", "Lo") or c == _NASAL
    )
    if kept in _ASPIRATED:
        kept = kept[:-1]
    return unicodedata.normalize("NFC", kept) or SILENCE


def is_nucleus(label: str) -> bool:
    """Whether the engine's label is a vowel, a diphthong or a syllabic consonant."""
    letters = unicodedata.normalize("NFD", label)
    return _SYLLABIC in letters or any(c in _VOWELS for c in letters)


def phone_spans(utterance: Utterance) -> list[tuple[str, int, int]]:
    """Engine label, first and last+1 sample of each phone, without gaps; "" is a pause.

    Unnamed stretches that sound (trill onsets, glides) or that are short and silent before a
    consonant (closures) join the next phone; bare palatalisation joins the previous one.
    """
    starts = [mark.sample for mark in utterance.phones]
    ends = [*starts[1:], len(utterance.samples)]
    spans: list[tuple[str, int, int]] = []
    joined_from: int | None = None
    for position, (mark, start, end) in enumerate(zip(utterance.phones, starts, ends, strict=True)):
        if end <= start:
            continue
        if mark.label == "ʲ" and spans:
            spans[-1] = (spans[-1][0], spans[-1][1], end)
        elif mark.label == "" and _joins_next(utterance, position, start, end):
            joined_from = start if joined_from is None else joined_from
        else:
            spans.append((mark.label, start if joined_from is None else joined_from, end))
            joined_from = None
    return spans


def _joins_next(utterance: Utterance, position: int, start: int, end: int) -> bool:
    following = next((m.label for m in utterance.phones[position + 1 :] if m.label), None)
    if following is None or end - start >= _PAUSE_SEC * utterance.sample_rate_hz:
        return False
    sounds = np.abs(utterance.samples[start:end].astype(np.int32)).max() > 16
    return bool(sounds or not is_nucleus(following))


def word_spans(
    words: tuple[Mark, ...], phones: list[tuple[str, int, int]]
) -> list[tuple[str, int, int]]:
    """Word, first and last+1 sample: from its first to its last phone, pauses left out."""
    spans = []
    for position, word in enumerate(words):
        is_last = position + 1 == len(words)
        stop = float("inf") if is_last else words[position + 1].sample
        # A phone belongs to the word that holds its middle: closures may start before the event.
        inside = [p for p in phones if p[0] and word.sample <= (p[1] + p[2]) / 2 < stop]
        label = "".join(c for c in word.label if c == " " or unicodedata.category(c)[0] in "LMN")
        if inside and label.strip():
            spans.append((label.strip().lower(), inside[0][1], inside[-1][2]))
    return spans


def speak_clip(
    engine: Espeak, text: str, language: str, voice: str, rng: np.random.Generator
) -> dict[str, Any]:
    """One clip: ``audio`` FLAC bytes, ``num_samples``, ``words``, ``phones``, ``nuclei``."""
    utterance = engine.synthesize(
        text,
        f"{language}+{voice}",
        words_per_minute=int(rng.integers(135, 226)),
        pitch=int(rng.integers(20, 81)),
        pitch_range=int(rng.integers(30, 81)),
    )
    tape_speed = rng.uniform(0.96, 1.04)
    lead_sec, trail_sec = rng.uniform(0.05, 0.4, 2)
    phones = phone_spans(utterance)
    spoken_end = max(end for label, _, end in phones if label)
    voiced = utterance.samples[:spoken_end] / 32768.0
    voiced = soxr.resample(voiced, utterance.sample_rate_hz * tape_speed, SAMPLE_RATE_HZ)
    room = int((MAX_DURATION_SEC - trail_sec) * SAMPLE_RATE_HZ)
    lead = max(0, min(int(lead_sec * SAMPLE_RATE_HZ), room - len(voiced)))
    dry = np.pad(voiced, (lead, int(trail_sec * SAMPLE_RATE_HZ)))
    dry = dry[: int(MAX_DURATION_SEC * SAMPLE_RATE_HZ)]
    samples_per_sec = utterance.sample_rate_hz * tape_speed

    def timed(label: str, start: int, end: int) -> Span:
        start_sec, end_sec = (lead / SAMPLE_RATE_HZ + s / samples_per_sec for s in (start, end))
        return {"label": label, "start_sec": start_sec, "end_sec": end_sec}

    def within_clip(spans: list[Span]) -> list[Span]:
        return [span for span in spans if span["end_sec"] <= len(dry) / SAMPLE_RATE_HZ + 1e-3]

    phones = [span for span in phones if span[1] < spoken_end]
    return {
        "audio": {"bytes": encode_flac(record(dry, rng)), "path": None},
        "num_samples": len(dry),
        "words": within_clip([timed(*span) for span in word_spans(utterance.words, phones)]),
        "phones": within_clip([timed(broad_phone(name), s, e) for name, s, e in phones]),
        "nuclei": within_clip([timed(broad_phone(n), s, e) for n, s, e in phones if is_nucleus(n)]),
    }


def language_clips(language: str, num_clips: int, seed: int) -> list[dict[str, Any]]:
    """``num_clips`` clips of one language; voices take turns and no sentence occurs twice.

    Deterministic only in a process that has not used the engine yet (see ``espeak.py``).
    """
    engine, phrases = Espeak(seed), PHRASES[language]
    offset = LANGUAGES.index(language)
    rng = np.random.default_rng([seed, 0, offset])
    sentences = iter(rng.permutation(phrases.num_sentences))
    clips = []
    for index in range(num_clips):
        num_sentences = int(rng.choice([1, 2, 3], p=[0.85, 0.12, 0.03]))
        text = " ".join(phrases.sentence(int(next(sentences))) for _ in range(num_sentences))
        voice = (index + offset) % len(VOICES)
        clip = speak_clip(engine, text, language, VOICES[voice], rng)
        clip |= {
            "id": f"speech-{language}-{index:04d}",
            "domain": "speech",
            "split": _split(voice, offset, index // len(VOICES)),
            "language": language,
            "voice": VOICES[voice],
            "text": text,
        }
        clips.append(clip)
    return clips


def _split(voice: int, language: int, turn: int) -> str:
    """7 : 2 : 3 of twelve, the same for every language and for every voice."""
    slot = (voice + 5 * language + 7 * turn) % 12
    return "train" if slot < 7 else "valid" if slot < 9 else "test"
