from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.signal import medfilt

from ssl_audio.probes.metrics.diarization import (
    diarization_counts,
    permutation_invariant_loss,
    speaker_segments,
)


def test_swapped_speakers_cost_nothing():
    labels = (np.random.default_rng(0).random((2, 30, 2)) > 0.5).astype(float)
    logits = 20 * labels[..., ::-1] - 10
    loss, permutation = permutation_invariant_loss(logits, labels, [30, 12])
    assert loss < 1e-3
    assert permutation.tolist() == [[1, 0], [1, 0]]
    aligned = np.take_along_axis(labels, permutation[:, None], axis=2)
    counts = diarization_counts(logits, aligned, [30, 12])
    assert counts.error_rate == 0
    assert counts.accuracy == 1
    assert counts.num_frames == 42


def test_padding_does_not_count_and_counts_add_up():
    rng = np.random.default_rng(1)
    logits, labels = rng.standard_normal((2, 20, 3)), rng.integers(0, 2, (2, 20, 3))
    together = diarization_counts(logits, labels, [20, 9])
    alone = diarization_counts(logits[:1], labels[:1], [20])
    rest = diarization_counts(logits[1:, :9], labels[1:, :9], [9])
    assert together == alone + rest


def test_no_reference_speech():
    silent = np.zeros((1, 5, 2))
    assert math.isnan(diarization_counts(silent - 1, silent, [5]).error_rate)
    assert math.isnan(permutation_invariant_loss(silent, silent, [0])[0])


def test_median_filter_of_decisions_equals_scipy():
    probabilities = np.random.default_rng(2).random((80, 2))
    filtered = medfilt((probabilities > 0.4).astype(float), (7, 1))
    want = speaker_segments(filtered, frame_sec=0.02)
    got = speaker_segments(probabilities, frame_sec=0.02, threshold=0.4, median_frames=7)
    assert got == want
    assert speaker_segments(np.zeros((0, 2)), frame_sec=0.02) == []


def test_even_filters_are_refused():
    with pytest.raises(ValueError, match="must be odd and positive, got 4"):
        speaker_segments(np.zeros((3, 1)), frame_sec=0.02, median_frames=4)
