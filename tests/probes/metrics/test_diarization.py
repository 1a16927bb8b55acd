from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.signal import medfilt

from ssl_audio.probes.metrics.diarization import (
    SpeakerSegment,
    diarization_counts,
    permutation_invariant_loss,
    segment_errors,
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


def test_errors_of_segments_by_hand():
    reference = [SpeakerSegment(0, 0.0, 4.0), SpeakerSegment(1, 3.0, 2.0)]
    assert segment_errors(reference, reference, 2) == (0.0, 6.0)
    swapped = [SpeakerSegment(1, 0.0, 4.0), SpeakerSegment(0, 3.0, 2.0)]
    assert segment_errors(reference, swapped, 2) == (0.0, 6.0)
    assert segment_errors(reference, [], 2) == (6.0, 6.0)
    assert segment_errors([], reference, 2) == (6.0, 0.0)
    # One speaker for all of it and a second too long: one second of overlap is missed, from 4 to 5
    # it is another speaker, from 5 to 6 an alarm.
    assert segment_errors(reference, [SpeakerSegment(0, 0.0, 6.0)], 2) == (3.0, 6.0)


def test_segments_that_follow_each_other_or_overlap_are_one():
    reference = [SpeakerSegment(0, 0.0, 2.0)]
    parts = [SpeakerSegment(0, 0.0, 1.2), SpeakerSegment(0, 1.0, 0.5), SpeakerSegment(0, 1.5, 0.5)]
    assert segment_errors(reference, parts, 2) == (0.0, 2.0)


def test_seconds_are_rounded_as_in_rttm_files():
    reference, system = [SpeakerSegment(0, 0.0, 1.004)], [SpeakerSegment(0, 0.0, 1.0)]
    assert segment_errors(reference, system, 1) == (0.0, 1.0)
    assert segment_errors(reference, [*system, SpeakerSegment(0, 1.5, 0.004)], 1) == (0.0, 1.0)


def test_segments_of_frames_have_the_errors_of_the_frames():
    rng = np.random.default_rng(3)
    labels, logits = rng.integers(0, 2, (1, 50, 2)), rng.standard_normal((1, 50, 2))
    found = [
        diarization_counts(logits, labels[..., order], [50]).error_rate
        for order in ([0, 1], [1, 0])
    ]
    sides = [
        speaker_segments(x, frame_sec=0.02) for x in (labels[0], (logits[0] > 0).astype(float))
    ]
    errors, spoken = segment_errors(*sides, 2)
    assert errors / spoken == pytest.approx(min(found))
