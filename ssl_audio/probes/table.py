"""Probe results for people: a table in the terminal, the same as Markdown.

Results are the JSON-able dicts that ``ssl_audio.probes.runner`` returns and writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = ("trained", "untrained", "log-mel")
FILE_WIDTH = 200  # characters of a line where no terminal's width is known
FAILED = "failed"  # instead of a metric: no source has a score, a warning says why


def print_table(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints task, metric, and a score with its 95 % interval for each source of features."""
    sources = source_names(results)
    table = Table(title=f"Probes: suite {results['suite']}")
    table.add_column("task", overflow="fold")
    table.add_column("metric", no_wrap=True)
    for name in sources:
        table.add_column(name, justify="right")
    table.add_column("majority", justify="right")
    for task, scores in by_task(results).items():
        best = max(merit(score) for score in scores.values())
        cells = [
            _bold(score_text(scores.get(name)), name in scores and merit(scores[name]) == best)
            for name in sources
        ]
        record = next(iter(scores.values()))
        table.add_row(task, metric_text(record), *cells, majority_text(record))
    for task in results.get("failed", ()):
        table.add_row(task, FAILED, *["-"] * (len(sources) + 1))
    table.caption = summary(results)
    console = console or Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    console.print(table)
    for line in results.get("notes", ()):
        console.print(line, highlight=False, markup=False)
    for line in _left_out(results):
        console.print(line, style="yellow", highlight=False, markup=False)


def markdown_table(results: Mapping[str, Any]) -> str:
    """The same table as Markdown."""
    sources = source_names(results)
    lines = [
        "| task | metric | " + " | ".join(sources) + " | majority |",
        "|---|---|" + "---:|" * (len(sources) + 1),
    ]
    for task, scores in by_task(results).items():
        record = next(iter(scores.values()))
        cells = [score_text(scores.get(name)) for name in sources]
        row = ["| " + task, metric_text(record), *cells, majority_text(record)]
        lines.append(" | ".join(row) + " |")
    for task in results.get("failed", ()):
        lines.append(f"| {task} | {FAILED} |" + " - |" * (len(sources) + 1))
    return "\n".join(
        [*lines, "", summary(results), *results.get("notes", ()), *_left_out(results), ""]
    )


def summary(results: Mapping[str, Any]) -> str:
    """On how many tasks the trained encoder beats each baseline."""
    rows = by_task(results).values()
    parts = []
    for baseline in ("untrained", "log-mel"):
        pairs = [
            (merit(scores["trained"]), merit(scores[baseline]))
            for scores in rows
            if "trained" in scores and baseline in scores
        ]
        if pairs:
            won = sum(trained > other for trained, other in pairs)
            parts.append(f"trained beats {baseline} on {won} of {len(pairs)} tasks")
    return "; ".join(parts)


def source_names(results: Mapping[str, Any]) -> list[str]:
    """Column names, the usual three first."""
    present = list(results["scores"])
    return [name for name in COLUMNS if name in present] + [
        name for name in present if name not in COLUMNS
    ]


def by_task(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    tasks: dict[str, dict[str, Any]] = {}
    for source, scores in results["scores"].items():
        for task, score in scores.items():
            tasks.setdefault(task, {})[source] = score
    return tasks


def score_text(score: Mapping[str, Any] | None) -> str:
    """Percent (or what ``scale`` makes of it) and the larger half of the 95 % interval, if any."""
    if score is None:
        return "-"
    scale = score.get("scale", 100)
    if score["ci95"] is None:
        return f"{scale * score['value']:.1f}"
    low, high = score["ci95"]
    spread = max(high - score["value"], score["value"] - low)
    return f"{scale * score['value']:.1f} ± {scale * spread:.1f}"


def majority_text(score: Mapping[str, Any]) -> str:
    """Percent of the most frequent class; metrics other than accuracy have none."""
    majority = score["majority"]
    return "-" if majority is None else f"{100 * majority:.1f}"


def _left_out(results: Mapping[str, Any]) -> list[str]:
    return [f"left out: {line}" for line in results.get("warnings", ())]


def merit(score: Mapping[str, Any]) -> float:
    """The value, so that higher is better."""
    return score["value"] if score.get("higher_is_better", True) else -score["value"]


def metric_text(score: Mapping[str, Any]) -> str:
    """The metric, and an arrow where lower is better."""
    return score["metric"] if score.get("higher_is_better", True) else f"{score['metric']} ↓"


def _bold(text: str, is_best: bool) -> str:
    return f"[bold]{text}[/bold]" if is_best else text
