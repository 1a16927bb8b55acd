"""HEAR's table of tasks and the numbers that summarise a model over them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ssl_audio.probes.metrics.leaderboard import s_scores

END_POINTS = "worst and best of the 34 models on HEAR's leaderboard"

TaskTable = Mapping[str, Mapping[str, Any]]  # see configs/probe/hear.yaml


def folders(table: TaskTable) -> list[str]:
    """Names of all task folders that the table counts."""
    return [str(name) for row in table.values() for name in row["folders"]]


def summarised(values: Mapping[str, float], table: TaskTable) -> dict[str, Any]:
    """Means over the table's tasks.

    Args:
        values: primary score by folder.
        table: the tasks; one with several folders has their mean, and no score without all.

    Returns:
        ``mean`` of the primary scores (None without any), ``tasks`` it goes over, ``missing`` ones,
        ``s_score`` over the same tasks with the ``end_points`` named.
    """
    scores: dict[str, float] = {}
    for name, row in table.items():
        found = [values[folder] for folder in row["folders"] if folder in values]
        if len(found) == len(row["folders"]) and not any(map(math.isnan, found)):
            scores[name] = float(np.mean(found))
    summary: dict[str, Any] = {
        "mean": float(np.mean(list(scores.values()))) if scores else None,
        "s_score": None,
        "tasks": list(scores),
        "missing": [name for name in table if name not in scores],
        "end_points": END_POINTS,
    }
    if scores:
        low, high = (np.array([table[name][end] for name in scores]) for end in ("low", "high"))
        summary["s_score"] = float(s_scores(np.array([list(scores.values())]), low, high)[0])
    return summary


def described(summary: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for each source that has a score, naming what its means go over."""
    return [
        f"{name}: mean {100 * means['mean']:.1f}, s-score {means['s_score']:.1f} "
        f"({means['end_points']}) over {', '.join(means['tasks'])}"
        for name, means in summary.items()
        if means["tasks"]
    ]
