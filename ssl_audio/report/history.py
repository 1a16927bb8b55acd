"""Charts of the probes that ran during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_audio.report.events import Series
from ssl_audio.report.svg import line_chart


def history_section(records: Mapping[str, Mapping[str, Any]]) -> str:
    """Scores over steps, one chart a task, with baselines as level lines.

    Args:
        records: contents of ``probes.json`` by the name of their line; the first one's baselines
            are drawn.
    """
    records = {name: record for name, record in records.items() if record["history"]}
    if not records:
        return ""
    tasks: dict[str, str] = {}
    for record in records.values():
        for entry in record["history"]:
            tasks |= {task: score["metric"] for task, score in entry["scores"].items()}
    first = next(iter(records.values()))
    steps = [entry["step"] for record in records.values() for entry in record["history"]]
    charts = []
    for task, metric in tasks.items():
        lines = {name: _curve(record, task) for name, record in records.items()}
        for name, scores in first["baselines"].items():
            if task in scores:
                level = 100 * scores[task]["value"]
                lines[name] = Series([min(0, *steps), max(steps)], [level, level])
        charts.append(line_chart(f"{task}: {metric}, %", lines))
    return f'<h2>Probes during training</h2><div class="charts">{"".join(charts)}</div>'


def _curve(record: Mapping[str, Any], task: str) -> Series:
    entries = [entry for entry in record["history"] if task in entry["scores"]]
    values = [100 * entry["scores"][task]["value"] for entry in entries]
    return Series([entry["step"] for entry in entries], values)
