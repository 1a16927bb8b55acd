from __future__ import annotations

import math

import numpy as np
import pytest

from ssl_audio.probes.metrics import leaderboard


def test_s_score_is_over_the_tasks_that_exist():
    table = np.array([[0.2, np.nan], [0.6, 0.9], [np.nan, np.nan]])
    scores = leaderboard.s_scores(table, np.array([0.2, 0.5]), np.array([0.7, 0.9]))
    assert scores[:2] == pytest.approx([0, 90])
    assert math.isnan(scores[2])


def test_equal_end_points_are_named():
    with pytest.raises(ValueError, match=r"tasks \[1\] need low < high"):
        leaderboard.s_scores(np.ones((2, 2)), np.array([0.0, 1.0]), np.array([1.0, 1.0]))


def test_outliers_are_limited_and_constant_tasks_are_zero():
    table = np.array([[0.0, 5.0], [0.1, 5.0], [0.2, 5.0], [9.0, 5.0]])
    assert leaderboard.standardised_means(table)[3] > 0.8
    assert leaderboard.winsorised_means(table)[3] == 0.5
