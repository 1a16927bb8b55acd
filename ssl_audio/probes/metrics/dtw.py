"""Distances between many pairs of frame sequences at once: batched DTW, or means.

Axes: P pairs, N and M frames, D channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np

Distance = Literal["cosine", "euclidean"]
Pooling = Literal["none", "mean"]

MAX_CELLS = 200_000  # frame distances at a time; a few MB stay in a CPU's cache


class PairDistances:
    """Symmetric distances between sequences, each pair computed once.

    Args:
        sequences: (N_i, D) each; their frames are scaled to norm 1.
        distance: of two frames: angle / pi, or Euclidean.
        pooling: "none" aligns with DTW, "mean" compares the means of the scaled frames.
        blocks: index lists (rows, columns) whose tables will be asked for.
    """

    def __init__(
        self,
        sequences: Sequence[np.ndarray],
        distance: Distance,
        pooling: Pooling,
        blocks: Iterable[tuple[Sequence[int], Sequence[int]]],
    ) -> None:
        self.num_sequences = len(sequences)
        wanted = [self._keys(rows, columns).ravel() for rows, columns in blocks]
        self.keys = np.unique(np.concatenate(wanted)) if wanted else np.empty(0, dtype=np.int64)
        scaled = [unit_frames(frames) for frames in sequences]
        if pooling == "mean":
            scaled = [frames.mean(0, keepdims=True) for frames in scaled]
        self.values = self._compute(scaled, distance)

    def table(self, rows: Sequence[int], columns: Sequence[int]) -> np.ndarray:
        """(rows, columns) distances of one of the blocks."""
        return self.values[np.searchsorted(self.keys, self._keys(rows, columns))]

    def _keys(self, rows: Sequence[int], columns: Sequence[int]) -> np.ndarray:
        i, j = np.asarray(rows, dtype=np.int64)[:, None], np.asarray(columns, dtype=np.int64)
        return np.minimum(i, j) * self.num_sequences + np.maximum(i, j)

    def _compute(self, sequences: Sequence[np.ndarray], distance: Distance) -> np.ndarray:
        values = np.zeros(len(self.keys))
        if not len(self.keys):
            return values
        sizes = np.array([len(frames) for frames in sequences])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        frames = np.concatenate([*sequences, np.zeros((sizes.max(), sequences[0].shape[1]))])
        first, second = np.divmod(self.keys, self.num_sequences)
        for batch in _batches(sizes[first], sizes[second]):
            n, m = sizes[first[batch]], sizes[second[batch]]
            # What lies behind a sequence's end is read too, and plays no part in the result.
            a = frames[starts[first[batch], None] + np.arange(n.max())]
            b = frames[starts[second[batch], None] + np.arange(m.max())]
            values[batch] = dtw_per_step(frame_distances(a, b, distance), n, m)
        return values


def frame_distances(a: np.ndarray, b: np.ndarray, distance: Distance) -> np.ndarray:
    """(P, N, M) distances of frames (P, N, D) and (P, M, D) of norm 1 (or means of such)."""
    dot = a @ b.swapaxes(1, 2)
    if distance == "cosine":
        return np.arccos(np.clip(dot, -1, 1)) / np.pi
    squares = (a**2).sum(2)[:, :, None] + (b**2).sum(2)[:, None]
    return np.sqrt(np.maximum(squares - 2 * dot, 0))


def dtw_per_step(distances: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(P,) cost of the best alignment divided by the number of its cells.

    Steps (1, 0), (0, 1) and (1, 1) from the first to the last cell; among equal predecessors the
    diagonal one counts, then the one in the same row.

    Args:
        distances: (P, N, M).
        rows, columns: (P,) valid sizes, at least 1.
    """
    num_pairs, num_rows, num_columns = distances.shape
    pairs = np.arange(num_pairs)
    cost = np.full((num_pairs, num_rows + 1, num_columns + 1), np.inf)
    cells = np.zeros(cost.shape, dtype=np.int64)
    cost[:, 0, 0] = 0
    # Cells of an anti-diagonal depend on the two before it only.
    for step in range(num_rows + num_columns - 1):
        i = np.arange(max(0, step - num_columns + 1), min(step, num_rows - 1) + 1)
        j = step - i
        diagonal, left, up = cost[:, i, j], cost[:, i + 1, j], cost[:, i, j + 1]
        best = np.minimum(diagonal, np.minimum(left, up))
        length = np.where(left <= up, cells[:, i + 1, j], cells[:, i, j + 1])
        cells[:, i + 1, j + 1] = 1 + np.where(diagonal <= best, cells[:, i, j], length)
        cost[:, i + 1, j + 1] = distances[:, i, j] + best
    return cost[pairs, rows, columns] / cells[pairs, rows, columns]


def unit_frames(frames: np.ndarray) -> np.ndarray:
    """(N, D) float64 of norm 1; a frame of zeros gets equal channels."""
    frames = np.asarray(frames, dtype=np.float64)
    norms = np.linalg.norm(frames, axis=1, keepdims=True)
    return np.where(norms > 0, frames / np.where(norms > 0, norms, 1), frames.shape[1] ** -0.5)


def _batches(rows: np.ndarray, columns: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of pairs of similar size, padded to at most ``MAX_CELLS`` cells together."""
    order = np.lexsort((columns, rows))
    start = 0
    while start < len(order):
        stop = start + 1
        height, width = int(rows[order[start]]), int(columns[order[start]])
        while stop < len(order):
            taller = max(height, int(rows[order[stop]]))
            wider = max(width, int(columns[order[stop]]))
            if taller * wider * (stop + 1 - start) > MAX_CELLS:
                break
            height, width, stop = taller, wider, stop + 1
        yield order[start:stop]
        start = stop
