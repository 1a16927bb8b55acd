"""Min-cut segmentation of frames by their similarity: how SD-HuBERT finds syllables.

SD-HuBERT (arXiv 2310.10803, ``mincut`` of cheoljun95/sdhubert at 3c98c02) cuts every run of speech
so that the sum over segments of a normalised cut is least, then joins similar neighbours. The
original sums blocks of the similarity matrix anew for each candidate, about O(N^4) for N frames;
here a block is four entries of a 2-D prefix sum, so a run costs O(K N^2) for K boundaries.

Axes: T frames, D channels, N frames of a run, K boundaries.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from ssl_audio.tokenizers.syllables import EPS


def min_cut(similarity: np.ndarray, num_boundaries: int) -> np.ndarray:
    """Boundaries with the least sum of normalised cuts.

    A segment [j, i) costs cut / (within / 2 + cut), where ``within`` sums its block of the matrix
    and ``cut`` its rows outside of the block.

    Args:
        similarity: (N, N), above 0.
        num_boundaries: K, both ends included. More than N are not possible.

    Returns:
        (K,) int64 frames, the first 0 and the last N - 1; ascending, with repeats of 0 where K
        boundaries do not fit.
    """
    size = len(similarity)
    costs = _segment_costs(similarity)
    best = np.full(size, np.inf)
    best[0] = 0
    choices = np.zeros((num_boundaries, size), np.int64)
    for k in range(1, num_boundaries):
        totals = best[:, None] + costs  # (j, i)
        choices[k] = totals.argmin(0)
        best = totals[choices[k], np.arange(size)]
    boundaries = [size - 1]
    for k in range(num_boundaries - 1, 0, -1):
        boundaries.append(int(choices[k, boundaries[-1]]))
    return np.array(boundaries[::-1], np.int64)


def segment_min_cut(
    features: np.ndarray, runs: np.ndarray, segment_frames: float, merge_threshold: float
) -> np.ndarray:
    """Segments of each run of speech: min-cut, then joining of the most similar neighbours.

    Args:
        features: (T, D), zero outside of speech.
        runs: (R, 2) [start, end) of the runs of speech, two frames or longer.
        segment_frames: a run gets one boundary, both ends included, for each such length in it.
        merge_threshold: the most similar neighbours in a run are joined while the cosine similarity
            of their means reaches this.

    Returns:
        (N, 2) int64 [start, end).

    Raises:
        ValueError: ``segment_frames`` is not above 0.
    """
    if segment_frames <= 0:
        raise ValueError(f"segment_frames={segment_frames}: give a length above 0")
    found: list[tuple[int, int]] = []
    for start, end in np.asarray(runs).tolist():
        frames = features[start:end].astype(np.float32)
        similarity = frames @ frames.T
        similarity = similarity - min(similarity.min(), 0) + 1e-7
        edges = min_cut(similarity, max(2, math.ceil((end - start) / segment_frames)))
        edges[-1] += 1
        segments = _joined(frames, np.unique(edges).tolist(), merge_threshold)
        found += [(start + first, start + last) for first, last in segments]
    return np.array(found, np.int64).reshape(-1, 2)


def _segment_costs(similarity: np.ndarray) -> np.ndarray:
    """(N, N) float64 cost of [j, i) at row j, column i; infinite where i <= j."""
    size = len(similarity)
    sums = np.zeros((size + 1, size + 1))
    sums[1:, 1:] = similarity.astype(np.float64).cumsum(0).cumsum(1)
    start, end = np.ogrid[:size, :size]
    within = sums[end, end] - sums[start, end] - sums[end, start] + sums[start, start]
    rows = sums[:, -1]
    cut = rows[end] - rows[start] - within
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(end > start, cut / (within / 2 + cut), np.inf)


def _joined(frames: np.ndarray, edges: list[int], threshold: float) -> list[tuple[int, int]]:
    """Agglomeration of neighbours, the most similar first."""
    prefix = np.pad(frames.astype(np.float64).cumsum(0), ((1, 0), (0, 0)))
    while len(edges) > 2:
        means = np.diff(prefix[edges], axis=0) / np.diff(edges)[:, None]
        means /= np.sqrt(np.square(means).sum(1, keepdims=True) + EPS)
        similarity = (means[:-1] * means[1:]).sum(1)
        closest = int(similarity.argmax())
        if similarity[closest] < threshold:
            break
        del edges[closest + 1]
    return list(itertools.pairwise(edges))
