from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ssl_audio.probes.metrics import dtw


def best_alignment(cost: np.ndarray) -> float:
    """Cost per cell of the cheapest path, cell by cell."""
    total: dict[tuple[int, int], tuple[float, int]] = {(-1, -1): (0.0, 0)}
    for i, j in np.ndindex(*cost.shape):
        steps = [(i - 1, j - 1), (i, j - 1), (i - 1, j)]
        before = min((total[step] for step in steps if step in total), key=lambda pair: pair[0])
        total[i, j] = before[0] + cost[i, j], before[1] + 1
    value, cells = total[cost.shape[0] - 1, cost.shape[1] - 1]
    return value / cells


@pytest.fixture
def sequences():
    rng = np.random.default_rng(0)
    return [rng.standard_normal((n, 4)) for n in (1, 3, 9, 5, 6)]


@pytest.mark.parametrize("max_cells", [1, 200_000])
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_every_pair_alone(sequences, distance, max_cells, monkeypatch):
    monkeypatch.setattr(dtw, "MAX_CELLS", max_cells)
    everything = range(len(sequences))
    table = dtw.PairDistances(sequences, distance, "none", [(everything, everything)]).table(
        everything, everything
    )
    unit = [dtw.unit_frames(frames) for frames in sequences]
    for i, j in np.ndindex(*table.shape):
        cost = cdist(unit[min(i, j)], unit[max(i, j)], distance)
        if distance == "cosine":
            cost = np.arccos(np.clip(1 - cost, -1, 1)) / np.pi
        # The square root magnifies what is lost between equal frames.
        assert table[i, j] == pytest.approx(best_alignment(cost), abs=1e-7)


def test_means_and_frames_of_zeros(sequences):
    sequences.append(np.zeros((2, 4)))
    distances = dtw.PairDistances(sequences, "euclidean", "mean", [([5], [2])])
    mean = dtw.unit_frames(sequences[2]).mean(0)
    assert distances.table([5], [2])[0, 0] == pytest.approx(np.linalg.norm(mean - 0.5))


def test_no_pairs(sequences):
    assert len(dtw.PairDistances(sequences, "cosine", "none", []).values) == 0
