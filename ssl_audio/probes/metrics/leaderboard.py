"""Summaries over tasks: HEAR's leaderboard means and the s-score.

A table is (models, tasks) with NaN where a model has no score. Of the two families only the s-score
keeps its value when a model joins the table, given fixed end points. Definitions: hear-leaderboard
``leaderboard.py``; Turian et al., HEAR 2021, arXiv:2203.03022.
"""

from __future__ import annotations

import numpy as np


def s_scores(table: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(models,) mean over the available tasks of where a score lies from ``low`` 0 to ``high`` 100.

    Args:
        table: (models, tasks).
        low, high: (tasks,) end points; name their source beside the result.

    Returns:
        NaN for a model without any score.

    Raises:
        ValueError: a task whose end points are equal.
    """
    equal = np.flatnonzero(~(high > low))
    if len(equal):
        raise ValueError(f"s-score: end points of tasks {equal.tolist()} need low < high")
    shares = (table - low) / (high - low)
    present = ~np.isnan(shares)
    counts = present.sum(1)
    sums = np.where(present, shares, 0).sum(1)
    return np.where(counts > 0, 100 * sums / np.maximum(counts, 1), np.nan)


def imputed(table: np.ndarray) -> np.ndarray:
    """The table with missing scores estimated from the others, as the leaderboard does it.

    Iterative ridge regressions of scikit-learn, so values change between its versions.
    """
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer

    return IterativeImputer(max_iter=10, random_state=0).fit_transform(table)


def standardised(table: np.ndarray) -> np.ndarray:
    """Every task with mean 0 and deviation 1 over the models; a constant task becomes 0."""
    deviation = table.std(0)
    return (table - table.mean(0)) / np.where(deviation > 0, deviation, 1)


def standardised_means(table: np.ndarray) -> np.ndarray:
    """(models,) mean of the standardised scores of a full table."""
    return standardised(table).mean(1)


def winsorised_means(table: np.ndarray) -> np.ndarray:
    """(models,) as ``standardised_means``, each score limited to [-1, 1] first."""
    return standardised(table).clip(-1, 1).mean(1)
