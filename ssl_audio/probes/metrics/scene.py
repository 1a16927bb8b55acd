"""Clip scores of HEAR: one vector of class scores for each clip.

Axes: N clips, C classes. Definitions: hear-eval-kit ``heareval/score.py``, by way of scikit-learn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist

import numpy as np

SEMITONES = 12


def top1_accuracy(scores: np.ndarray, targets: np.ndarray) -> float:
    """Share of clips whose highest score is at the first class of their target.

    Args:
        scores: (N, C), any real scores.
        targets: (N, C), 0 or 1.

    Raises:
        ValueError: here and below: shapes that differ, scores that are not finite.
    """
    scores, targets = _checked(scores, targets)
    return _share(scores.argmax(1) == targets.argmax(1))


def chroma_accuracy(scores: np.ndarray, targets: np.ndarray) -> float:
    """As ``top1_accuracy`` for classes a semitone apart, octave errors forgiven."""
    scores, targets = _checked(scores, targets)
    return _share(scores.argmax(1) % SEMITONES == targets.argmax(1) % SEMITONES)


def average_precision(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(C,) step-wise area under precision and recall; 0 for a class without positives."""
    scores, targets = _checked(scores, targets)
    return np.array([_column_precision(s, t) for s, t in zip(scores.T, targets.T, strict=True)])


def mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean of ``average_precision`` over all classes, absent ones included."""
    return _mean(average_precision(scores, targets))


def area_under_roc(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(C,) chance that a positive clip scores above a negative one, ties half.

    NaN for a class that every clip or no clip has.
    """
    scores, targets = _checked(scores, targets)
    return np.array([_column_area(s, t) for s, t in zip(scores.T, targets.T, strict=True)])


def mean_area_under_roc(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean of ``area_under_roc``; NaN if one of its classes is."""
    return _mean(area_under_roc(scores, targets))


def d_prime(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean over classes of sqrt(2) times the normal quantile of the area under the ROC.

    Infinite if a class is ranked perfectly, NaN if one has no area.
    """
    return _mean(np.array([_separation(area) for area in area_under_roc(scores, targets)]))


SCENE_SCORES: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "top1_acc": top1_accuracy,
    "pitch_acc": top1_accuracy,
    "chroma_acc": chroma_accuracy,
    "mAP": mean_average_precision,
    "d_prime": d_prime,
    "aucroc": mean_area_under_roc,
}
"""Score functions by the names that HEAR's task metadata use; higher is better."""


def _checked(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, targets = np.asarray(scores), np.asarray(targets)
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(
            f"scores and targets must both be (clips, classes), got {scores.shape} and "
            f"{targets.shape}"
        )
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores)).any(1).sum())
        raise ValueError(f"scores of {bad} of {len(scores)} clips hold NaN or infinite values")
    return scores, targets


def _share(hits: np.ndarray) -> float:
    return float(hits.mean()) if len(hits) else math.nan


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _column_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]
    hits = np.cumsum(targets[order] > 0)[last_of_tie]
    if not len(hits) or hits[-1] == 0:
        return 0.0
    precision = hits / (np.flatnonzero(last_of_tie) + 1)
    return float(np.sum(np.diff(hits, prepend=0) * precision) / hits[-1])


def _column_area(scores: np.ndarray, targets: np.ndarray) -> float:
    positive = targets > 0
    num_pos = int(positive.sum())
    num_neg = len(scores) - num_pos
    if num_pos == 0 or num_neg == 0:
        return math.nan
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((rank[positive].sum() - num_pos * (num_pos + 1) / 2) / (num_pos * num_neg))


def _separation(area: float) -> float:
    if math.isnan(area) or area in (0.0, 1.0):
        return {0.0: -math.inf, 1.0: math.inf}.get(area, math.nan)
    return math.sqrt(2) * NormalDist().inv_cdf(area)
