"""Writes ``report.html``: curves, pictures, probe table and config of a run in one file.

Nothing is loaded from elsewhere: charts are inline SVG, pictures are inline PNG, no scripts.
"""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ssl_audio.files import replacing
from ssl_audio.probes.table import (
    FAILED,
    by_task,
    majority_text,
    merit,
    metric_text,
    score_text,
    source_names,
    summary,
)
from ssl_audio.report.events import Log, read_logs
from ssl_audio.report.history import history_section
from ssl_audio.report.layers import layer_section
from ssl_audio.report.svg import line_chart

CONFIG_FILES = (".hydra/config.yaml", "config.yaml")
PROBE_HISTORY, PROBE_RESULTS = "probes.json", "results.json"
_PNG = "data:image/png;base64,"
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1320px;margin:2rem auto;padding:0 1rem;
color:#1f2937;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #e5e7eb}
h3{font-size:1rem;margin-bottom:.3rem}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(380px,1fr));gap:1rem}
svg{width:100%;height:auto;border:1px solid #e5e7eb;border-radius:6px}
svg text{font-size:11px;fill:#4b5563}svg .title{font-size:12.5px;font-weight:600;fill:#111827}
svg .grid{stroke:#e5e7eb;stroke-width:1}polyline{stroke-width:1.6}
table{border-collapse:collapse}td,th{padding:.25rem .8rem;border-bottom:1px solid #e5e7eb}
td.number{text-align:right;font-variant-numeric:tabular-nums}td.best{font-weight:700}
img{max-width:100%}pre{background:#f9fafb;border:1px solid #e5e7eb;padding:1rem;overflow-x:auto;
font-size:12.5px}.note{color:#6b7280}
"""


def write_report(run_dir: str | Path, output: str | Path | None = None) -> Path:
    """Collects what a run folder holds into one HTML page.

    Reads TensorBoard event files anywhere below ``run_dir`` (one section per folder), the newest
    ``results.json`` and ``probes.json`` below it, and the config that Hydra saved. What is missing
    is left out.

    Args:
        run_dir: the run.
        output: the page; by default ``report.html`` in the run.

    Returns:
        Where the page is.

    Raises:
        ValueError: ``run_dir`` is not a folder.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise ValueError(f"{run_dir}: no such run folder")
    sections = [
        *(
            section
            for results in _newest_of_suites(run_dir, PROBE_RESULTS)
            for section in (probe_section(results), layer_section(results))
        ),
        *(
            history_section({"trained": record})
            for record in _newest_of_suites(run_dir, PROBE_HISTORY)
        ),
        *(_log_section(log) for log in read_logs(run_dir)),
        _config_section(run_dir),
    ]
    path = Path(output) if output is not None else run_dir / "report.html"
    return write_page(path, f"Run {run_dir.resolve().name}", sections)


def write_page(path: Path, title: str, sections: Sequence[str]) -> Path:
    """Writes the sections as one document."""
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>{''.join(sections)}</body>"
        "</html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _newest_of_suites(run_dir: Path, name: str) -> list[dict[str, Any]]:
    """Of each suite the newest file of that name; other programs use the name too."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in sorted(run_dir.rglob(name), key=lambda path: -path.stat().st_mtime):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "suite_fingerprint" in content:
            found.setdefault((content["suite"], content["suite_fingerprint"]), content)
    return list(found.values())


def probe_section(results: Mapping[str, Any]) -> str:
    """The table of the final probes."""
    names = source_names(results)
    head = "".join(f"<th>{escape(name)}</th>" for name in ("task", "metric", *names, "majority"))
    rows = []
    for task, scores in by_task(results).items():
        record = next(iter(scores.values()))
        best = max(merit(score) for score in scores.values())
        cells = [f"<td>{escape(task)}</td><td>{escape(metric_text(record))}</td>"]
        for name in names:
            is_best = name in scores and merit(scores[name]) == best
            chosen = f"layer {scores[name]['layer']}" if name in scores else ""
            cells.append(
                f'<td class="number{" best" if is_best else ""}" title="{escape(chosen)}">'
                f"{score_text(scores.get(name))}</td>"
            )
        cells.append(f'<td class="number">{majority_text(record)}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    for task in results.get("failed", ()):
        cells = [f"<td>{escape(task)}</td><td>{FAILED}</td>", *["<td>-</td>"] * (len(names) + 1)]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    left_out = "".join(f"<li>{escape(line)}</li>" for line in results.get("warnings", ()))
    return (
        f"<h2>Probes: suite {escape(str(results['suite']))}</h2>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        '<p class="note">Frozen features; what there is to choose is chosen on valid. Percent on '
        f"test ± half of the 95 % interval over clips. {escape(summary(results))}.</p>"
        + "".join(f'<p class="note">{escape(line)}</p>' for line in results.get("notes", ()))
        + (f'<p class="note">Left out:</p><ul class="note">{left_out}</ul>' if left_out else "")
    )


def _log_section(log: Log) -> str:
    """Curves, grouped by the first part of their tags, and the newest pictures."""
    groups: dict[str, list[str]] = defaultdict(list)
    for tag, series in log.scalars.items():
        group = tag.split("/")[0] if "/" in tag else ""
        if group != "probe":  # drawn from probes.json
            groups[group].append(line_chart(tag, {tag: series}))
    parts = [f"<h2>{escape(log.name or 'Curves')}</h2>"]
    for group in sorted(groups):
        parts.append(f"<h3>{escape(group)}</h3>" if group else "")
        parts.append(f'<div class="charts">{"".join(groups[group])}</div>')
    for tag, png in log.pictures.items():
        data = base64.b64encode(png).decode()
        parts.append(f'<h3>{escape(tag)}</h3><img alt="{escape(tag)}" src="{_PNG}{data}">')
    return "".join(parts) if groups or log.pictures else ""


def _config_section(run_dir: Path) -> str:
    texts: Sequence[Path] = [run_dir / name for name in CONFIG_FILES if (run_dir / name).is_file()]
    if not texts:
        return ""
    return f"<h2>Config</h2><pre>{escape(texts[0].read_text(encoding='utf-8'))}</pre>"
