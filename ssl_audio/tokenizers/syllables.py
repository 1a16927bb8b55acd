"""Syllabic segments of frames: the greedy linear-time sweep of Sylber (arXiv 2410.07168, App. A).

A frame is speech where its norm reaches a threshold. Inside a run of speech frames a segment grows
while its template and the next frame are similar enough; then neighbouring segments whose means are
similar are merged, and the boundary between two that are not is moved to where it separates the two
means best (``segment_utils.py`` of Berkeley-Speech-Group/sylber at 8287c90).

Axes: T frames, D channels, N segments. A segment is a half-open interval [start, end) of frames.
"""

from __future__ import annotations

import itertools
import math
from importlib.util import find_spec
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

Features = TypeVar("Features", np.ndarray, Tensor)
Backend = Literal["numpy", "numba", "auto"]
BACKENDS = ("numpy", "numba", "auto")

EPS = 1e-8  # under every square root


def segment_syllables(
    features: Features,
    norm_threshold: float,
    merge_threshold: float,
    *,
    reset_counter: bool = False,
    min_frames: int = 0,
    min_similarity: float = 0.0,
    backend: Backend = "auto",
) -> Features:
    """Syllabic segments of one utterance.

    Args:
        features: (T, D), computed with in float32. A frame with NaN is not speech.
        norm_threshold: least L2 norm of a speech frame.
        merge_threshold: least cosine similarity inside a segment, -1 to 1.
        reset_counter: whether the template of a segment is the mean of its own frames, as the
            paper's text says. The released code never resets its frame counter inside a run, so the
            first frame of a later segment weighs as much as the run before it; that is the default.
        min_frames: a shorter segment joins the more similar of the segments that touch it (Sylber
            2.0, arXiv 2601.22306: 80 ms); 0 leaves short segments alone.
        min_similarity: least cosine similarity of the means for that.
        backend: "numba" compiles the loops (extra ``fast``), "auto" does so where numba is there.

    Returns:
        (N, 2) int64 [start, end) in order of time, of the type and on the device of ``features``.

    Raises:
        ValueError: features that are not (T, D), or an argument outside its range.
    """
    check_thresholds(norm_threshold, merge_threshold, min_frames, min_similarity)
    if features.ndim != 2:
        raise ValueError(f"features of shape {tuple(features.shape)}; segmentation wants (T, D)")
    if isinstance(features, Tensor):
        x = features.detach().float().cpu().numpy()
    else:
        x = np.asarray(features, np.float32)
    if resolve_backend(backend) == "numba":
        from ssl_audio.tokenizers.syllables_numba import segment_utterance
    else:
        segment_utterance = _segment_utterance
    found = segment_utterance(
        np.ascontiguousarray(x),
        norm_threshold,
        or_below(merge_threshold),
        reset_counter,
        min_frames,
        or_below(min_similarity),
    )
    if isinstance(features, Tensor):
        return torch.from_numpy(found).to(features.device)
    return found


def check_thresholds(
    norm_threshold: float, merge_threshold: float, min_frames: int = 0, min_similarity: float = 0.0
) -> None:
    """Raises ValueError for what :func:`segment_syllables` cannot work with."""
    if not (math.isfinite(norm_threshold) and norm_threshold >= 0):
        raise ValueError(f"norm_threshold={norm_threshold}: give a norm, 0 or above")
    for name, value in (("merge_threshold", merge_threshold), ("min_similarity", min_similarity)):
        if not -1 <= value <= 1:
            raise ValueError(f"{name}={value}: give a cosine similarity, -1 to 1")
    if min_frames < 0:
        raise ValueError(f"min_frames={min_frames}: give a number of frames, 0 for none")


def or_below(similarity: float) -> float:
    """A threshold that -1 always reaches, also where rounding makes it less."""
    return similarity if similarity > -1 else -2.0


def resolve_backend(backend: Backend) -> Literal["numpy", "numba"]:
    """What "auto" means here.

    Raises:
        ValueError: an unknown backend, or numba asked for and not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r}; known: {', '.join(BACKENDS)}")
    if backend == "numpy" or find_spec("numba"):
        return "numpy" if backend == "numpy" else "numba"
    if backend == "numba":
        raise ValueError("backend='numba' needs pip install 'ssl-audio[fast]'")
    return "numpy"


def runs_of(mask: np.ndarray) -> np.ndarray:
    """(R, 2) int64 [start, end) of the stretches of True in (T,)."""
    edges = np.diff(np.pad(mask.astype(np.int8), 1))
    return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], axis=1)


def segment_means(features: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """(N, D) mean over the frames (T, D) of each segment (N, 2)."""
    means = np.zeros((len(segments), features.shape[1]), features.dtype)
    for mean, (start, end) in zip(means, segments, strict=True):
        mean[:] = features[start:end].mean(0)
    return means


def _segment_utterance(
    x: np.ndarray,
    norm_threshold: float,
    merge_threshold: float,
    reset_counter: bool,
    min_frames: int,
    min_similarity: float,
) -> np.ndarray:
    squares = np.einsum("td,td->t", x, x)
    norms = np.sqrt(squares + EPS)
    square_list, norm_list = squares.tolist(), norms.tolist()  # floats are faster one by one
    found: list[tuple[int, int]] = []
    for first, last in runs_of(norms >= norm_threshold).tolist():
        starts = _sweep(x, square_list, norm_list, first, last, merge_threshold, reset_counter)
        found += _merge_and_refine(x, norms, [*starts, last], merge_threshold)
    if min_frames > 1:
        found = _join_short(x, found, min_frames, min_similarity)
    return np.array(found, np.int64).reshape(-1, 2)


def _sweep(
    x: np.ndarray,
    squares: list[float],
    norms: list[float],
    first: int,
    last: int,
    threshold: float,
    reset_counter: bool,
) -> list[int]:
    """Starts of the greedy segments of the run [first, last).

    Only the direction of the template matters, so it is kept as a sum; its own product with itself
    follows from its products with the frames.
    """
    starts = [first]
    start, weight, template, square = first, 1, x[first].copy(), squares[first]
    for t in range(first + 1, last):
        frame = x[t]
        dot = float(template.dot(frame))
        seen = weight + t - 1 - start
        if dot < threshold * math.sqrt(max(square, 0.0) + EPS * seen * seen) * norms[t]:
            starts.append(t)
            start, weight = t, 1 if reset_counter else t - first + 1
            template, square = weight * frame, weight * weight * squares[t]
        else:
            template += frame
            square += 2 * dot + squares[t]
    return starts


def _merge_and_refine(
    x: np.ndarray, norms: np.ndarray, edges: list[int], threshold: float
) -> list[tuple[int, int]]:
    """Second pass over the inner boundaries of a run; ``edges`` has its two ends as well."""
    found = []
    start, left = edges[0], np.add.reduce(x[edges[0] : edges[1]])
    for boundary, end in itertools.pairwise(edges[1:]):
        right = np.add.reduce(x[boundary:end])
        # Sums in place of means: only directions matter, and EPS grows with the frames squared.
        left_length = math.sqrt(left.dot(left) + EPS * (boundary - start) ** 2)
        right_length = math.sqrt(right.dot(right) + EPS * (end - boundary) ** 2)
        if left.dot(right) >= threshold * left_length * right_length:
            left += right
            continue
        low = max(start, boundary - max(1, (boundary - start) // 2))
        high = min(end, boundary + max(1, (end - boundary) // 2))
        split = low
        if high - low > 1:
            # gain of giving the frames up to and with low + q to the left, over giving it none
            left /= left_length
            left -= right / right_length
            gain = np.add.accumulate(x[low : high - 1].dot(left) / norms[low : high - 1])
            best = int(gain.argmax())
            split = low + best + 1 if gain[best] > 0 else low
        if split > start:
            found.append((start, split))
        start, left = split, np.add.reduce(x[split:end])
    found.append((start, edges[-1]))
    return found


def _join_short(
    x: np.ndarray, segments: list[tuple[int, int]], min_frames: int, min_similarity: float
) -> list[tuple[int, int]]:
    """One pass in order of time; a segment joined to its right neighbour is looked at again."""
    kept: list[tuple[int, int]] = []
    rest = segments[::-1]
    while rest:
        start, end = rest.pop()
        left = right = -math.inf
        if end - start < min_frames:
            if kept and kept[-1][1] == start:
                left = _mean_similarity(x, kept[-1], (start, end))
            if rest and rest[-1][0] == end:
                right = _mean_similarity(x, rest[-1], (start, end))
        if max(left, right) < min_similarity:
            kept.append((start, end))
        elif left >= right:
            kept[-1] = (kept[-1][0], end)
        else:
            rest[-1] = (start, rest[-1][1])
    return kept


def _mean_similarity(x: np.ndarray, one: tuple[int, int], other: tuple[int, int]) -> float:
    a, b = x[slice(*one)].mean(0), x[slice(*other)].mean(0)
    return float(a @ b) / math.sqrt(float(a @ a) + EPS) / math.sqrt(float(b @ b) + EPS)
