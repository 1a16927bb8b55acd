from __future__ import annotations

import math

import numpy as np
import pytest

from ssl_audio import audio
from ssl_audio.probes.recordings import Recording
from ssl_audio.probes.segmentation import score_segmentation
from ssl_audio.probes.syllable_corpora import (
    SyllableRecording,
    folder_syllables,
    syllables_of_phones,
)
from ssl_audio.probes.syllable_segments import segments_of
from ssl_audio.probes.token_stream import TokenSequence
from ssl_audio.tokenizers.energy_valleys import energy_valleys


def phones_of(*parts):
    """(label, seconds) in a row from 1 s on."""
    spans, start = [], 1.0
    for label, seconds in parts:
        end = start + seconds
        spans.append({"label": label, "start_sec": start, "end_sec": end})
        start = end
    return spans


def test_syllables_of_phones():
    phones = phones_of(("k", 0.1), ("a", 0.1), ("n", 0.1), ("t", 0.1), ("o", 0.2), ("s", 0.1),
                       ("sil", 0.3), ("a", 0.1), ("u", 0.1))  # fmt: skip
    nuclei = [phones[i] for i in (1, 4, 7, 8)]
    words = [
        {"label": "canto", "start_sec": 1.0, "end_sec": 1.7},
        {"label": "au", "start_sec": 2.0, "end_sec": 2.2},
    ]
    found = syllables_of_phones(words, phones, nuclei)
    assert [label for *_, label in found] == ["kan", "tos", "a", "u"]
    assert [end for _, end, _ in found] == pytest.approx([1.3, 1.7, 2.1, 2.2])


def utterance(name, shift=0.0):
    segments = np.array([[0.1, 0.3], [0.3, 0.6], [0.8, 1.0]])
    recording = Recording(name, 2.0, lambda start, duration: np.zeros(32_000, np.float32))
    found = TokenSequence(
        name,
        2.0,
        np.array([[4], [2], [4]]),
        segments[:, 0] + shift,
        segments[:, 1] + shift,
    )
    return SyllableRecording(recording, segments, ("ta", "ka", "ta")), found


def test_scores_after_the_shift_of_the_validation_recordings():
    truth, found = zip(*(utterance(name, shift=0.04) for name in "ab"), strict=True)
    by_id = {tokens.id: tokens for tokens in found}
    arguments = (truth[:1], {"a": by_id["a"]}, truth[1:], {"b": by_id["b"]})
    score = score_segmentation(*arguments, codebook_size=8, tolerance_sec=0.002)
    assert score.shift_sec == 0.04
    assert score.precision == 1
    assert score.recall == pytest.approx(3 / 5)  # the reference counts its ends too
    assert score.syllable_purity == score.cluster_purity == 1
    assert score.tokens_per_sec == score.reference_per_sec == 1.5
    assert score.bits_per_sec == pytest.approx(4.5)
    assert set(score.to_dict()) >= {"f1", "r_value"}


def test_recordings_without_segments_and_units():
    truth, _ = utterance("a")
    score = score_segmentation([truth], {})
    assert score.recall == 0
    assert math.isnan(score.syllable_purity)
    assert math.isnan(score.bits_per_sec)
    nothing = TokenSequence("a", 2.0, np.zeros((0, 0)), np.zeros(0), np.zeros(0))
    assert score_segmentation([truth], {"a": nothing}).tokens_per_sec == 0


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    task = tmp_path / "probes" / "syllables"
    task.mkdir(parents=True)
    level = np.zeros(32_000)
    for start in (3200, 9600, 16_000):  # three bursts of 0.4 s from 0.2 s on, valleys between them
        level[start : start + 6400] = np.hanning(6400)
    audio.write(tmp_path / "a.wav", 0.3 * level * rng.standard_normal(32_000), 16_000)
    rows = "".join(f"a.wav,{x},{0.2 + 0.4 * i},{0.6 + 0.4 * i}\n" for i, x in enumerate("xyz"))
    for split in ("train", "valid", "test"):
        (task / f"{split}.csv").write_text("path,label,start,end\n" + rows)
    return tmp_path


def test_energy_valleys_of_bursts(root):
    (truth,) = folder_syllables(root, "syllables").splits["test"]
    assert truth.labels == ("x", "y", "z")
    found = {tokens.id: tokens for tokens, _ in segments_of(None, [truth])}
    times = found["a.wav"]
    assert any(abs(times.start_sec - 0.6) < 0.04)
    assert any(abs(times.start_sec - 1.0) < 0.04)
    assert score_segmentation([truth], found).recall >= 0.75


def test_energy_valleys_of_almost_nothing():
    assert energy_valleys(np.zeros(10, np.float32)).shape == (0, 2)


def test_a_task_of_whole_clips_is_one_line(root):
    for path in (root / "probes" / "syllables").glob("*.csv"):
        path.write_text("path,label\na.wav,x\n")
    with pytest.raises(ValueError, match="has no segments"):
        folder_syllables(root, "syllables")
