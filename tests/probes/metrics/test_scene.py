from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multilabel_auroc,
    multilabel_average_precision,
)

from ssl_audio.probes.metrics import scene


@pytest.fixture(params=["distinct", "ties"])
def multilabel(request):
    rng = np.random.default_rng(3)
    scores = rng.random((60, 7))
    if request.param == "ties":
        scores = np.round(scores, 1)
    return scores, (rng.random((60, 7)) < 0.3).astype(np.int64)


def test_ranking_scores_equal_torchmetrics(multilabel):
    scores, targets = multilabel
    tensors = torch.from_numpy(scores), torch.from_numpy(targets)
    precision = multilabel_average_precision(*tensors, num_labels=7, average=None)
    area = multilabel_auroc(*tensors, num_labels=7, average=None)
    np.testing.assert_allclose(scene.average_precision(scores, targets), precision, atol=1e-6)
    np.testing.assert_allclose(scene.area_under_roc(scores, targets), area, atol=1e-6)


def test_top1_equals_torchmetrics():
    rng = np.random.default_rng(4)
    scores, labels = rng.random((50, 5)), rng.integers(0, 5, 50)
    want = multiclass_accuracy(
        torch.from_numpy(scores), torch.from_numpy(labels), num_classes=5, average="micro"
    )
    assert scene.top1_accuracy(scores, np.eye(5)[labels]) == pytest.approx(float(want))


def test_octave_errors_count_in_pitch_only():
    targets = np.eye(24)[[0, 5, 13]]
    scores = np.eye(24)[[12, 5, 2]]
    assert scene.SCENE_SCORES["pitch_acc"](scores, targets) == pytest.approx(1 / 3)
    assert scene.SCENE_SCORES["chroma_acc"](scores, targets) == pytest.approx(2 / 3)


def test_class_without_positives():
    scores, targets = np.array([[0.9, 0.1], [0.2, 0.3]]), np.array([[1, 0], [0, 0]])
    assert scene.average_precision(scores, targets).tolist() == [1.0, 0.0]
    assert scene.area_under_roc(scores, targets)[0] == 1.0
    assert math.isnan(scene.mean_area_under_roc(scores, targets))
    assert math.isnan(scene.d_prime(scores, targets))


def test_d_prime_of_perfect_chance_and_inverted_rankings():
    up, targets = np.arange(4.0)[:, None], np.array([[0], [0], [1], [1]])
    assert scene.d_prime(up, targets) == math.inf
    assert scene.d_prime(-up, targets) == -math.inf
    assert scene.d_prime(np.zeros((4, 1)), targets) == 0


def test_no_clip_is_nan():
    empty = np.zeros((0, 3))
    for name in ("top1_acc", "chroma_acc", "aucroc", "d_prime"):
        assert math.isnan(scene.SCENE_SCORES[name](empty, empty))


def test_bad_input_is_one_line():
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(3, 4\)"):
        scene.top1_accuracy(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="scores of 1 of 3 clips hold NaN"):
        scene.mean_average_precision(np.array([[0.1], [np.nan], [0.2]]), np.ones((3, 1)))
