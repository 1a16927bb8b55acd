from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multilabel_f1_score

from ssl_audio.probes.metrics import xares


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_single_frame_segments_equal_torchmetrics(average):
    rng = np.random.default_rng(0)
    predicted, target = rng.integers(0, 2, (2, 3, 40, 4))
    got = xares.segment_f1(predicted, target, hop_ms=20, segment_sec=0.02, average=average)
    want = multilabel_f1_score(
        torch.from_numpy(predicted).flatten(0, 1),
        torch.from_numpy(target).flatten(0, 1),
        num_labels=4,
        average=average,
    )
    assert got == pytest.approx(float(want), abs=1e-6)


def test_segments_pool_frames_and_drop_the_tail():
    predicted, target = np.zeros((2, 1, 7, 1))
    predicted[0, [0, 6]] = 1
    target[0, 2] = 1
    given = {"hop_ms": 20, "average": "micro"}
    assert xares.segment_f1(predicted, target, segment_sec=0.06, **given) == 1
    assert math.isnan(xares.segment_f1(predicted, target, segment_sec=1.0, **given))
    assert math.isnan(xares.segment_f1(0 * target, 0 * target, segment_sec=0.06, **given))


def test_masked_mean_ignores_padding():
    frames = np.ones((2, 3, 4))
    frames[0, :, 2:] = np.nan
    means = xares.masked_mean(frames, [2, 0])
    assert means[0].tolist() == [1, 1, 1]
    assert np.isnan(means[1]).all()


def test_retrieval_of_own_captions():
    text = np.eye(6)
    audio = np.repeat(
        np.array([[1.0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]), 2, 0
    )
    scores = xares.retrieval_scores(audio, text, captions_per_clip=2)
    for direction in ("a2t", "t2a"):
        assert scores[direction] == {
            "r1": 100, "r5": 100, "r10": 100, "meanr": 1, "medr": 1, "mAP10": 100,
        }  # fmt: skip


def test_retrieval_needs_whole_clips():
    with pytest.raises(ValueError, match="5 rows for each clip, got 6 of audio"):
        xares.retrieval_scores(np.ones((6, 2)), np.ones((6, 2)), captions_per_clip=5)


def test_weighted_average():
    assert xares.weighted_average([1.0, 0.0], [3, 1]) == 0.75
    assert math.isnan(xares.weighted_average([], []))
