"""HEAR's clip and event scores against hear-eval-kit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ssl_audio.probes.metrics.events import (
    EVENT_SCORES,
    Event,
    events_from_probabilities,
    frame_targets,
)
from ssl_audio.probes.metrics.leaderboard import (
    imputed,
    s_scores,
    standardised_means,
    winsorised_means,
)
from ssl_audio.probes.metrics.scene import SCENE_SCORES


def value(written) -> float:
    """A score as written; what the original could not compute has no value here."""
    return math.nan if isinstance(written, dict) else float(written)


def events(rows: list[dict]) -> list[Event]:
    return [Event(row["label"], row["start"], row["end"]) for row in rows]


def test_scene_scores(metric_cases) -> None:
    for case in metric_cases("hear_scene_scores"):
        scores, targets = np.array(case["predictions"]), np.array(case["targets"])
        for name, want in case["scores"].items():
            got = SCENE_SCORES[name](scores, targets)
            assert got == pytest.approx(value(want), abs=1e-9, nan_ok=True), (case["name"], name)


def test_event_postprocessing(metric_cases) -> None:
    for case in metric_cases("hear_event_postprocess"):
        params = case["effective_params"]
        got = events_from_probabilities(
            np.array(case["probabilities"], dtype=np.float32),
            np.array(case["timestamps_ms"]),
            case["labels"],
            threshold=params["threshold"],
            median_filter_ms=params["median_filter_ms"],
            min_duration_ms=params["min_duration"],
        )
        assert got == events(case["events"])


def test_event_scores(metric_cases) -> None:
    for case in metric_cases("hear_event_scores"):
        reference, estimated = (
            {file: events(rows) for file, rows in case[side].items()}
            for side in ("reference", "estimated")
        )
        for name, want in case["scores"].items():
            got = EVENT_SCORES[name](reference, estimated)
            assert got == pytest.approx(
                {key: value(score) for key, score in want.items()}, abs=1e-9, nan_ok=True
            ), name


def test_timestamp_targets(metric_cases) -> None:
    for case in metric_cases("hear_timestamp_targets"):
        got = frame_targets(events(case["events"]), case["timestamps_ms"], case["labels"])
        assert got.tolist() == case["multi_hot"]


def test_leaderboard(metric_cases) -> None:
    for case in metric_cases("hear_leaderboard"):
        table = np.array(case["scores"], dtype=np.float64)
        low, high = np.nanmin(table, axis=0), np.nanmax(table, axis=0)
        assert low == pytest.approx(np.array(case["task_min"]), abs=1e-9)
        assert high == pytest.approx(np.array(case["task_max"]), abs=1e-9)
        assert s_scores(table, low, high) == pytest.approx(
            np.array(case["s_score_available_tasks"]), abs=1e-9
        )
        filled = imputed(table)
        assert filled.mean(1) == pytest.approx(np.array(case["imputed_mean"]), abs=1e-3)
        assert standardised_means(filled) == pytest.approx(
            np.array(case["standardised_mean"]), abs=1e-3
        )
        assert winsorised_means(filled) == pytest.approx(
            np.array(case["winsorised_mean"]), abs=1e-3
        )
