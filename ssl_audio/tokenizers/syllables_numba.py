"""The segmentation of ``syllables`` as compiled loops over frames (extra ``fast``).

The same decisions frame by frame, with one running sum per segment: a frame is read from memory
once and met again in the processor's cache. Importing this file imports numba; ``syllables`` and
``syllables_batch`` do so when it is there.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np

from ssl_audio.tokenizers.syllables import EPS

# Sums may be taken in any order, which is what lets the loops run on vectors; NaN stays NaN.
jit = numba.njit(
    cache=True, nogil=True, error_model="numpy", boundscheck=False, fastmath={"reassoc", "contract"}
)


def segment_utterance(
    x: np.ndarray,
    norm_threshold: float,
    merge_threshold: float,
    reset_counter: bool,
    min_frames: int,
    min_similarity: float,
) -> np.ndarray:
    """(N, 2) int64 segments of x (T, D) float32; arguments as ``segment_syllables``."""
    segments = np.empty((len(x), 2), np.int64)
    count = _segment(
        x, norm_threshold, merge_threshold, reset_counter, min_frames, min_similarity, segments
    )
    return segments[:count].copy()


def segment_batch(
    x: np.ndarray,
    lengths: np.ndarray,
    norm_threshold: float,
    merge_threshold: float,
    reset_counter: bool,
    min_frames: int,
    min_similarity: float,
    num_threads: int,
) -> np.ndarray:
    """(B, T, 2) int64 segments of x (B, T, D), -1 after the last of a clip."""
    segments = np.full((*x.shape[:2], 2), -1, np.int64)

    def run(item: int) -> None:
        count = _segment(
            x[item, : lengths[item]],
            norm_threshold,
            merge_threshold,
            reset_counter,
            min_frames,
            min_similarity,
            segments[item],
        )
        segments[item, count:] = -1  # the last pass works in place

    if num_threads == 1:
        for item in range(len(x)):
            run(item)
    else:
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(run, range(len(x))))
    return segments


@jit
def _segment(  # type: ignore[no-untyped-def]
    x, norm_threshold, merge_threshold, reset_counter, min_frames, min_similarity, segments
):
    """Fills ``segments`` (T, 2); returns how many there are."""
    num_frames, dim = x.shape
    norms = np.empty(num_frames, np.float32)
    for t in range(num_frames):
        norms[t] = math.sqrt(_dot(x[t], x[t]) + EPS)
    template, direction = np.empty(dim, np.float32), np.empty(dim, np.float32)
    edges = np.empty(num_frames + 1, np.int64)
    count, first = 0, 0
    while first < num_frames:
        if not norms[first] >= norm_threshold:
            first += 1
            continue
        last = first + 1
        while last < num_frames and norms[last] >= norm_threshold:
            last += 1
        size = _sweep(x, norms, first, last, merge_threshold, reset_counter, template, edges)
        count = _merge_and_refine(
            x, norms, edges[:size], merge_threshold, template, direction, segments, count
        )
        first = last
    if min_frames > 1:
        count = _join_short(x, segments, count, min_frames, min_similarity, template, direction)
    return count


@jit
def _sweep(x, norms, first, last, threshold, reset_counter, template, edges):  # type: ignore[no-untyped-def]
    """Writes the starts of the greedy segments of [first, last), then ``last``; their number."""
    edges[0], size = first, 1
    start, weight = first, 1
    template[:] = x[first]
    square = float(norms[first]) ** 2 - EPS
    for t in range(first + 1, last):
        dot = _dot(template, x[t])
        count = float(weight + t - 1 - start)
        length = math.sqrt(max(square, 0.0) + EPS * count * count)
        if dot < threshold * length * norms[t]:
            start, weight = t, (1 if reset_counter else t - first + 1)
            edges[size] = t
            size += 1
            for d in range(len(template)):
                template[d] = weight * x[t, d]
            square = float(weight) ** 2 * (float(norms[t]) ** 2 - EPS)
        else:
            for d in range(len(template)):
                template[d] += x[t, d]
            square += 2 * dot + float(norms[t]) ** 2 - EPS
    edges[size] = last
    return size + 1


@jit
def _merge_and_refine(x, norms, edges, threshold, left, right, segments, count):  # type: ignore[no-untyped-def]
    """Second pass over the inner boundaries; returns the number of segments so far."""
    start = edges[0]
    _sum(x, start, edges[1], left)
    for k in range(1, len(edges) - 1):
        boundary, end = edges[k], edges[k + 1]
        _sum(x, boundary, end, right)
        left_size, right_size = float(boundary - start), float(end - boundary)
        left_norm = math.sqrt(_dot(left, left) / (left_size * left_size) + EPS)
        right_norm = math.sqrt(_dot(right, right) / (right_size * right_size) + EPS)
        similarity = _dot(left, right) / (left_size * right_size)
        if similarity >= threshold * left_norm * right_norm:
            for d in range(len(left)):
                left[d] += right[d]
            continue
        for d in range(len(left)):
            left[d] = left[d] / (left_size * left_norm) - right[d] / (right_size * right_norm)
        split = low = max(start, boundary - max(1, (boundary - start) // 2))
        high = min(end, boundary + max(1, (end - boundary) // 2))
        gain, best = 0.0, 0.0
        for t in range(low, high - 1):
            gain += _dot(x[t], left) / norms[t]
            if gain > best:
                best, split = gain, t + 1
        if split > start:
            segments[count, 0], segments[count, 1] = start, split
            count += 1
        start = split
        _sum(x, start, end, left)
    segments[count, 0], segments[count, 1] = start, edges[-1]
    return count + 1


@jit
def _join_short(x, segments, count, min_frames, min_similarity, one, other):  # type: ignore[no-untyped-def]
    """One pass in order of time, in place; returns the number of segments left."""
    kept = 0
    for k in range(count):
        start, end = segments[k]
        left = right = -math.inf
        if end - start < min_frames:
            if kept > 0 and segments[kept - 1, 1] == start:
                left = _similarity(x, segments[kept - 1, 0], start, end, one, other)
            if k + 1 < count and segments[k + 1, 0] == end:
                right = _similarity(x, start, end, segments[k + 1, 1], one, other)
        if max(left, right) < min_similarity:
            segments[kept, 0], segments[kept, 1] = start, end
            kept += 1
        elif left >= right:
            segments[kept - 1, 1] = end
        else:
            segments[k + 1, 0] = start
    return kept


@jit
def _similarity(x, start, middle, end, one, other):  # type: ignore[no-untyped-def]
    """Cosine similarity of the means of [start, middle) and [middle, end)."""
    _sum(x, start, middle, one)
    _sum(x, middle, end, other)
    m, n = float(middle - start), float(end - middle)
    lengths = math.sqrt(_dot(one, one) / (m * m) + EPS) * math.sqrt(
        _dot(other, other) / (n * n) + EPS
    )
    return _dot(one, other) / (m * n) / lengths


@jit
def _sum(x, start, end, total):  # type: ignore[no-untyped-def]
    total[:] = x[start]
    for t in range(start + 1, end):
        for d in range(len(total)):
            total[d] += x[t, d]


@jit
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for d in range(len(a)):
        total += a[d] * b[d]
    return total
