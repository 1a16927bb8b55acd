"""Pages of probe results alone: one model with its baselines, or several models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_audio.report.history import history_section
from ssl_audio.report.layers import layer_section
from ssl_audio.report.page import probe_section, write_page


def write_probe_report(results: Mapping[str, Any], path: Path, title: str) -> Path:
    """The table, what was left out, and charts over layers."""
    return write_page(path, title, [probe_section(results), layer_section(results)])


def write_comparison(
    compared: Sequence[Mapping[str, Any]],
    histories: Mapping[str, Mapping[str, Any]],
    path: Path,
) -> Path:
    """Table and charts of each suite, and the probes during training.

    Args:
        compared: results whose columns are models (``probes.compare``).
        histories: contents of ``probes.json`` by model.
        path: the page.
    """
    sections = [s for results in compared for s in (probe_section(results), layer_section(results))]
    return write_page(path, "Comparison", [*sections, history_section(histories)])
