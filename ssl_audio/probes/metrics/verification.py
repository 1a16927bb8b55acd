"""Speaker verification: equal error rate and minimum detection cost.

Definition: s3prl ``metric/common.py``; the cost is that of the NIST 2016 evaluation plan.
"""

from __future__ import annotations

import math

import numpy as np


def equal_error_rate(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Where the false alarm rate equals the miss rate on the linearly interpolated ROC.

    Args:
        scores: (N,), higher means the same speaker.
        labels: (N,), 1 for target trials and 0 for others.

    Returns:
        The rate and the threshold there; NaN if one kind of trial is absent.
    """
    false_alarm, miss, thresholds = _operating_points(scores, labels)
    if not len(thresholds):
        return math.nan, math.nan
    gap = false_alarm - miss  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    before = after - 1
    share = -gap[before] / (gap[after] - gap[before])
    rate = false_alarm[before] + share * (false_alarm[after] - false_alarm[before])
    if math.isinf(thresholds[before]):
        return float(rate), float(thresholds[after])
    threshold = thresholds[before] + share * (thresholds[after] - thresholds[before])
    return float(rate), float(threshold)


def min_detection_cost(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    target_prior: float = 0.01,
    miss_cost: float = 1.0,
    false_alarm_cost: float = 1.0,
) -> tuple[float, float]:
    """Lowest normalised detection cost over all thresholds, and its threshold.

    1 is what a system reaches that ignores the audio; the threshold is then infinite. NaN if one
    kind of trial is absent.
    """
    false_alarm, miss, thresholds = _operating_points(scores, labels)
    if not len(thresholds):
        return math.nan, math.nan
    on_miss = miss_cost * target_prior
    on_false_alarm = false_alarm_cost * (1 - target_prior)
    cost = on_miss * miss + on_false_alarm * false_alarm
    best = int(cost.argmin())
    return float(cost[best] / min(on_miss, on_false_alarm)), float(thresholds[best])


def _operating_points(
    scores: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False alarm and miss rates when everything at or above each threshold is accepted."""
    scores, target = np.asarray(scores, dtype=np.float64), np.asarray(labels) > 0
    if scores.shape != target.shape or scores.ndim != 1:
        raise ValueError(
            f"scores and labels must be (trials,), got {scores.shape} and {target.shape}"
        )
    if np.isnan(scores).any():
        raise ValueError("verification scores hold NaN")
    if target.all() or not target.any():
        return np.empty(0), np.empty(0), np.empty(0)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_tie = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    hits = np.cumsum(target[order])[last_of_tie]
    false_alarms = last_of_tie + 1 - hits
    return (
        np.append(0.0, false_alarms / (~target).sum()),
        np.append(1.0, 1 - hits / target.sum()),
        np.append(math.inf, ranked[last_of_tie]),
    )
