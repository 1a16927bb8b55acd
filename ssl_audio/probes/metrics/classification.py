"""Scores of a classification probe and their spread. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def accuracy(predicted: np.ndarray, target: np.ndarray) -> float:
    """Share of equal entries, NaN for empty input."""
    return float(np.mean(predicted == target)) if len(target) else float("nan")


def macro_f1(predicted: np.ndarray, target: np.ndarray) -> float:
    """Mean over the classes present in ``target`` or ``predicted`` of the F1 score.

    As scikit-learn's ``f1_score(average="macro")`` with ``zero_division=0``. NaN for empty input.
    """
    if not len(target):
        return float("nan")
    scores = []
    for label in np.union1d(predicted, target):
        hits = np.sum((predicted == label) & (target == label))
        scores.append(2 * hits / (np.sum(predicted == label) + np.sum(target == label)))
    return float(np.mean(scores))


def bootstrap_interval(
    correct: np.ndarray,
    groups: Sequence[str],
    *,
    seed: int,
    num_draws: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the accuracy when whole groups are drawn with replacement.

    Args:
        correct: (N,) bool, one entry per example.
        groups: (N,) the clip of each example; frames of one clip are not independent, so clips are
            the unit of the draw.
        seed: of the draws.

    Returns:
        Lower and upper end; NaN for empty input.
    """
    if not len(correct):
        return float("nan"), float("nan")
    _, group_index = np.unique(np.asarray(groups), return_inverse=True)
    hits = np.bincount(group_index, weights=correct.astype(np.float64))
    sizes = np.bincount(group_index).astype(np.float64)
    return ratio_interval(hits, sizes, seed=seed, num_draws=num_draws, level=level)


def ratio_interval(
    numerators: np.ndarray,
    denominators: np.ndarray,
    *,
    seed: int,
    num_draws: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of sum(numerators) / sum(denominators) when rows are drawn anew.

    Args:
        numerators, denominators: (N,), what each clip adds: hits and frames, errors and words.
        seed: of the draws.

    Returns:
        Lower and upper end; NaN for empty input, draws whose denominators are all 0 do not count.
    """
    if not len(numerators):
        return float("nan"), float("nan")
    count = len(numerators)
    draws = np.random.default_rng(seed).multinomial(
        count, np.full(count, 1 / count), size=num_draws
    )
    below = draws @ denominators
    values = (draws @ numerators)[below > 0] / below[below > 0]
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail]) if len(values) else (np.nan, np.nan)
    return float(low), float(high)
