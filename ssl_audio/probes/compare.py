"""Probe results of several models, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_audio.probes.runner import LOG_MEL, TRAINED


@dataclass(frozen=True, slots=True)
class ProbedRun:
    """One model: its newest results of each suite, and its probes during training if any."""

    name: str
    results: Mapping[str, Mapping[str, Any]]
    history: Mapping[str, Any] | None


def read_run(source: str) -> ProbedRun:
    """Reads ``RUN`` or ``NAME=RUN``: a run's folder, the output of ``ssl-audio probe``, or a
    ``results.json``.

    Raises:
        ValueError: nothing there, or no probe results in it.
    """
    name, equals, rest = source.partition("=")
    path = Path(rest if equals else source)
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a run's folder or a results.json")
    if not equals:
        name = (path if path.is_dir() else path.parent).resolve().name
    files = [path] if path.is_file() else [*path.rglob("results.json"), *path.rglob("probes.json")]
    results: dict[str, Mapping[str, Any]] = {}
    histories: list[Mapping[str, Any]] = []
    for file in sorted(files, key=lambda file: -file.stat().st_mtime):
        content = _read(file)
        if "history" in content:
            histories.append(content)
        elif TRAINED in content.get("scores", {}):
            results.setdefault(str(content.get("suite")), content)
    if not results and not histories:
        raise ValueError(f"{path}: no probe results here; run ssl-audio probe first")
    return ProbedRun(name, results, histories[0] if histories else None)


def compare(runs: Sequence[ProbedRun]) -> list[dict[str, Any]]:
    """One results dict for each suite, whose columns are the runs and log-mel energies.

    Raises:
        ValueError: two runs of one name.
    """
    names = [run.name for run in runs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two runs are called {min(twice)!r}; name them: NAME=RUN")
    suites = dict.fromkeys(suite for run in runs for suite in run.results)
    return [_side_by_side(suite, [run for run in runs if suite in run.results]) for suite in suites]


def _side_by_side(suite: str, runs: Sequence[ProbedRun]) -> dict[str, Any]:
    first = runs[0].results[suite]
    scores = {run.name: run.results[suite]["scores"][TRAINED] for run in runs}
    warnings = []
    for key, what in (("suite_fingerprint", "clips or tasks"), ("protocol", "protocol")):
        for run in runs[1:]:
            if run.results[suite].get(key) != first.get(key):
                warnings.append(
                    f"{run.name} and {runs[0].name} differ in {what}: do not compare their scores"
                )
    log_mel: dict[str, Any] = {}
    for run in reversed(runs):  # the first that has a task counts
        log_mel |= run.results[suite]["scores"].get(LOG_MEL, {})
    if log_mel:
        scores[LOG_MEL] = log_mel
    means = [_mean(name, scores) for name in scores]
    return {
        "suite": suite,
        "scores": scores,
        "notes": [line for line in means if line],
        "warnings": warnings,
    }


def _mean(name: str, scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Over the tasks that all columns have, in one line."""
    shared = [
        task
        for task, score in scores[name].items()
        if score.get("scale", 100) == 100
        and score.get("higher_is_better", True)
        and all(task in rows for rows in scores.values())
    ]
    if not shared:
        return ""
    mean = sum(scores[name][task]["value"] for task in shared) / len(shared)
    return f"{name}: mean {100 * mean:.1f} over {len(shared)} tasks"


def _read(path: Path) -> Mapping[str, Any]:
    """The content if it is a JSON object, else nothing: other programs use these names too."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
