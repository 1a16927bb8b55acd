from __future__ import annotations

import itertools

import numpy as np
import pytest

from ssl_audio.tokenizers import min_cut, segment_min_cut


def cost_of(similarity, boundaries):
    total = 0.0
    for start, end in itertools.pairwise(boundaries):
        within = similarity[start:end, start:end].sum()
        cut = similarity[start:end].sum() - within
        total += cut / (within / 2 + cut)
    return total


def test_no_other_boundaries_cost_less():
    similarity = np.random.default_rng(0).random((9, 9)) + 0.1
    similarity = similarity + similarity.T
    found = min_cut(similarity, 4)
    costs = [
        cost_of(similarity, (0, *inner, 8)) for inner in itertools.combinations(range(1, 8), 2)
    ]
    assert cost_of(similarity, found) == pytest.approx(min(costs))


def blocks(sizes):
    return np.repeat(3 * np.eye(len(sizes), dtype=np.float32), sizes, axis=0)


def test_blocks_are_found_in_each_run():
    features = np.concatenate([np.zeros((4, 3), np.float32), blocks([8, 6, 7])])
    found = segment_min_cut(features, np.array([[4, 25]]), 4, merge_threshold=0.5)
    assert found.tolist() == [[4, 12], [12, 18], [18, 25]]


def test_short_runs_and_no_runs():
    features = blocks([2, 2])
    assert segment_min_cut(features, np.array([[0, 2]]), 10, 0.5).tolist() == [[0, 2]]
    assert segment_min_cut(features, np.zeros((0, 2), int), 10, 0.5).shape == (0, 2)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="segment_frames=0"):
        segment_min_cut(blocks([2]), np.array([[0, 2]]), 0, 0.5)
