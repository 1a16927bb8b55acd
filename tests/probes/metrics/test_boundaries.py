from __future__ import annotations

import math

import numpy as np
import pytest

from ssl_audio.probes.metrics.boundaries import (
    best_shift,
    boundary_score,
    coding_rate,
    match_segments,
)

REFERENCE = [np.array([[0.1, 0.3], [0.3, 0.6], [1.0, 1.2]])]  # boundaries 0.1 0.3 0.6 1.0 1.2


def test_counts_by_hand():
    predicted = [np.array([[0.15, 0.32], [0.32, 0.7], [0.9, 1.3]])]  # starts 0.15 0.32 0.9
    score = boundary_score(REFERENCE, predicted)
    assert (score.num_hits, score.num_reference, score.num_predicted) == (2, 5, 3)
    assert score.precision == pytest.approx(2 / 3)
    assert score.recall == pytest.approx(2 / 5)
    assert score.f1 == pytest.approx(0.5)
    assert score.over_segmentation == pytest.approx(-0.4)


def test_a_boundary_is_matched_once():
    predicted = [np.array([[0.29, 0.3], [0.30, 0.31], [0.31, 0.4]])]
    assert boundary_score(REFERENCE, predicted).num_hits == 1


def test_the_tolerance_is_inclusive():
    assert boundary_score(REFERENCE, [np.array([[0.35, 0.4]])], 0.05).num_hits == 1
    assert boundary_score(REFERENCE, [np.array([[0.351, 0.4]])], 0.05).num_hits == 0


def test_perfect_boundaries_have_r_value_one():
    starts = np.array([0.1, 0.3, 0.6, 1.0, 1.2])
    score = boundary_score(REFERENCE, [np.stack([starts, starts + 0.05], 1)])
    assert score.r_value == score.f1 == 1


def test_a_constant_offset_is_found():
    starts = np.array([0.1, 0.3, 0.6, 1.0, 1.2])
    predicted = [np.stack([starts - 0.03, starts], 1)]
    assert best_shift(REFERENCE, predicted, 0.001) == -0.03


def test_without_a_prediction_or_a_reference():
    nothing = [np.zeros((0, 2))]
    score = boundary_score(REFERENCE, nothing)
    assert math.isnan(score.precision)
    assert score.recall == score.f1 == 0
    assert math.isnan(score.r_value)
    assert best_shift(REFERENCE, nothing) == 0
    assert math.isnan(boundary_score(nothing, nothing).f1)


def test_matching_maximises_the_total_overlap():
    reference = np.array([[0.0, 1.0], [1.0, 2.0]])
    predicted = np.array([[0.9, 2.0], [0.0, 0.9], [3.0, 4.0]])
    assert match_segments(reference, predicted).tolist() == [[0, 1], [1, 0]]
    assert match_segments(reference, np.zeros((0, 2))).shape == (0, 2)


def test_coding_rate():
    assert coding_rate(0.2, 100, 2000.0) == pytest.approx(0.04)
    assert math.isnan(coding_rate(0.2, 100, 0.0))
