"""Weighted k-nearest-neighbour classification on frozen features.

Axes: N train clips, M test clips, D channels, C classes. Definition: Wu et al., "Unsupervised
feature learning via non-parametric instance discrimination", section 3.4, arXiv:1805.01978.
"""

from __future__ import annotations

import numpy as np


def knn_class_scores(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> np.ndarray:
    """Votes of the ``k`` nearest train clips by cosine similarity, weighted exp(s / temperature).

    Args:
        train: (N, D), any norm.
        train_labels: (N,) int in 0 .. C - 1.
        test: (M, D).
        num_classes: C.
        k: neighbours; all N where there are fewer.

    Returns:
        (M, C) shares that sum to 1; the prediction is the largest.

    Raises:
        ValueError: no train clip, a label out of range, features that are not finite.
    """
    return weighted_votes(
        unit_rows(test) @ unit_rows(train).T,
        train_labels,
        num_classes=num_classes,
        k=k,
        temperature=temperature,
    )


def weighted_votes(
    similarity: np.ndarray,
    train_labels: np.ndarray,
    *,
    num_classes: int,
    k: int,
    temperature: float,
) -> np.ndarray:
    """(M, C) shares from (M, N) similarities; arguments and errors of ``knn_class_scores``."""
    labels = np.asarray(train_labels, dtype=np.int64)
    if not len(labels):
        raise ValueError("k-NN needs at least one train clip")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"k-NN labels must lie in 0 .. {num_classes - 1}, got {labels.max()}")
    if not np.isfinite(similarity).all():
        raise ValueError("k-NN features hold NaN or infinite values")
    k = min(k, len(labels))
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    values = np.take_along_axis(similarity, nearest, axis=1)
    # Relative to the nearest: the same shares, and no overflow at low temperatures.
    weights = np.exp((values - values.max(1, keepdims=True)) / temperature)
    votes = np.zeros((len(similarity), num_classes))
    np.add.at(votes, (np.arange(len(similarity))[:, None], labels[nearest]), weights)
    return votes / votes.sum(1, keepdims=True)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """(N, D) float64 scaled to norm 1; rows of zeros stay zero."""
    rows = np.asarray(rows, dtype=np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)
