from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_eer

from ssl_audio.probes.metrics.verification import equal_error_rate, min_detection_cost


def test_overlap_of_two_normals():
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.standard_normal(4000) + 2, rng.standard_normal(4000)])
    labels = np.arange(8000) < 4000
    rate, threshold = equal_error_rate(scores, labels)
    assert rate == pytest.approx(0.1587, abs=0.01)  # of a normal, above 1
    assert threshold == pytest.approx(1, abs=0.1)
    # torchmetrics takes the nearest operating point instead of interpolating.
    want = binary_eer(torch.from_numpy(scores).sigmoid(), torch.from_numpy(labels).long())
    assert rate == pytest.approx(float(want), abs=2e-3)


def test_perfect_inverted_and_constant_scores():
    labels = np.array([0, 0, 1, 1])
    assert equal_error_rate(np.arange(4.0), labels)[0] == 0
    assert equal_error_rate(-np.arange(4.0), labels)[0] == 1
    assert equal_error_rate(np.zeros(4), labels)[0] == 0.5
    assert min_detection_cost(np.arange(4.0), labels) == (0, 2)
    assert min_detection_cost(-np.arange(4.0), labels) == (1, math.inf)


def test_one_kind_of_trial_has_no_rate():
    assert all(math.isnan(x) for x in equal_error_rate(np.arange(3.0), np.ones(3)))
    assert all(math.isnan(x) for x in min_detection_cost(np.arange(3.0), np.zeros(3)))


def test_bad_input_is_one_line():
    with pytest.raises(ValueError, match="NaN"):
        equal_error_rate(np.array([0.1, np.nan]), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        equal_error_rate(np.zeros(2), np.zeros(3))
