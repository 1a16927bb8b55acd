from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.ndimage import median_filter as scipy_median
from scipy.optimize import linear_sum_assignment

from ssl_audio.probes.metrics import events
from ssl_audio.probes.metrics.events import Event


def test_median_filter_equals_scipy():
    values = np.random.default_rng(0).random((40, 3)).astype(np.float32)
    for width in range(1, 12):
        np.testing.assert_array_equal(
            events.median_filter(values, width),
            scipy_median(values, size=(width, 1), mode="reflect"),
        )


def test_filter_wider_than_the_clip():
    values = np.array([[0.1], [0.9]], dtype=np.float32)
    assert events.median_filter(values, 9).shape == (2, 1)


def test_matching_is_as_large_as_possible():
    rng = np.random.default_rng(1)
    for rows, columns, density in itertools.product((1, 6, 9), (1, 7), (0.15, 0.4)):
        for _ in range(10):
            allowed = rng.random((rows, columns)) < density
            best = allowed[linear_sum_assignment(allowed, maximize=True)].sum()
            assert events.maximum_matching(allowed) == best


def test_long_chains_of_overlapping_events():
    # Each estimate fits two neighbours; first-come matching has to be undone along the whole chain.
    n = 3000
    allowed = np.eye(n, dtype=bool) | np.eye(n, k=-1, dtype=bool)
    assert events.maximum_matching(allowed[::-1]) == n


def test_frames_to_events_and_back():
    timestamps = np.arange(50) * 20.0
    truth = [Event("a", 100.0, 300.0), Event("b", 200.0, 800.0), Event("a", 500.0, 640.0)]
    targets = events.frame_targets(truth, timestamps, ["a", "b"])
    found = events.events_from_probabilities(
        targets.astype(np.float32), timestamps, ["a", "b"], median_filter_ms=0, min_duration_ms=0
    )
    assert found == sorted(truth, key=lambda event: event.start_ms)
    for score in events.EVENT_SCORES.values():
        assert next(iter(score({"x": truth}, {"x": found}).values())) in (1.0, 0.0)
    assert events.segment_error_rate({"x": truth}, {"x": found})["error_rate"] == 0


def test_collar_is_inclusive_and_offsets_scale_with_length():
    truth = {"x": [Event("a", 0.0, 2000.0)]}
    found = {"x": [Event("a", 50.0, 2400.0)]}
    strict = events.event_f_measure(truth, found, onset_collar_ms=50, match_offset=True)
    assert strict["f_measure"] == 1
    found = {"x": [Event("a", 50.0, 2401.0)]}
    strict = events.event_f_measure(truth, found, onset_collar_ms=50, match_offset=True)
    assert strict["f_measure"] == 0
    assert events.event_f_measure(truth, found, onset_collar_ms=49)["f_measure"] == 0


def test_errors_per_second():
    truth = {"x": [Event("a", 0, 1000), Event("b", 1000, 2000)]}
    found = {"x": [Event("b", 0, 1000), Event("b", 1000, 2500)]}
    # One substitution in the first second, an insertion in the third.
    assert events.segment_error_rate(truth, found)["error_rate"] == pytest.approx(2 / 2)


def test_nothing_found_or_nothing_there():
    truth = {"x": [Event("a", 0, 100)], "y": []}
    scores = events.event_f_measure(truth, {}, onset_collar_ms=200)
    assert scores["recall"] == 0
    assert math.isnan(scores["precision"])
    assert math.isnan(scores["f_measure"])
    assert events.segment_error_rate(truth, {})["error_rate"] == 1
    assert math.isnan(events.segment_error_rate({}, truth)["error_rate"])
    assert events.events_from_probabilities(np.zeros((0, 1)), np.zeros(0), ["a"]) == []


def test_a_single_frame_has_no_hop_and_no_duration():
    one = np.array([[0.9]])
    assert events.events_from_probabilities(one, np.array([40.0]), ["a"]) == []
    kept = events.events_from_probabilities(one, np.array([40.0]), ["a"], min_duration_ms=0)
    assert kept == [Event("a", 40.0, 40.0)]


def test_unknown_label_is_named():
    with pytest.raises(ValueError, match="'c' is not in the vocabulary"):
        events.frame_targets([Event("c", 0, 1)], np.zeros(3), ["a", "b"])
