"""Charts over the layers of an encoder: how well each does, how much a learned sum takes of it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from ssl_audio.probes.table import by_task
from ssl_audio.report.events import Series
from ssl_audio.report.svg import line_chart

NOTE = (
    '<p class="note">Best valid score of each layer, 0 is what enters the body; a source of one '
    "layer is a level line. Learned sums show the share of each layer instead.</p>"
)


def layer_section(results: Mapping[str, Any]) -> str:
    """One chart a task; empty where no source has several layers."""
    charts = []
    for task, scores in by_task(results).items():
        curves = {name: layer_curve(score) for name, score in scores.items()}
        shares = {name: layer_shares(score) for name, score in scores.items()}
        for title, found in ((f"{task}: valid score, %", curves), (f"{task}: share, %", shares)):
            last = max((max(curve) for curve in found.values() if curve), default=0)
            if last < 1:
                continue
            lines = {name: _series(curve, last) for name, curve in found.items() if curve}
            charts.append(line_chart(title, lines, x_label="layer"))
    if not charts:
        return ""
    title = f"<h2>Layers: suite {escape(str(results['suite']))}</h2>"
    return f'{title}{NOTE}<div class="charts">{"".join(charts)}</div>'


def layer_curve(score: Mapping[str, Any]) -> dict[int, float]:
    """Layer to its best valid score; of one layer without a number, at 0."""
    grid = score.get("grid")
    if not grid:
        return _choices(score)
    curve = {int(name): max(values) for name, values in grid.items() if name.isdecimal()}
    return curve or ({0: max(next(iter(grid.values())))} if len(grid) == 1 else {})


def _choices(score: Mapping[str, Any]) -> dict[int, float]:
    """Of folds that chose among single layers, the means of what each reached on valid."""
    grids = [fold["grid"] for fold in score.get("folds", ()) if "grid" in fold]
    tried = [[x["validation"] for x in grid if "layer" in x] for grid in grids]
    return dict(enumerate(np.mean(tried, axis=0).tolist())) if tried and all(tried) else {}


def layer_shares(score: Mapping[str, Any]) -> dict[int, float]:
    """Layer to its share in a learned sum, the mean over folds."""
    folds = score.get("folds") or [score.get("chosen", {})]
    weights = [fold["layer_weights"] for fold in folds if fold.get("layer_weights")]
    if not weights:
        return {}
    return {
        i: float(np.mean([list(w.values())[i] for w in weights])) for i in range(len(weights[0]))
    }


def _series(curve: Mapping[int, float], last: int) -> Series:
    if len(curve) == 1:
        (value,) = curve.values()
        return Series([0, last], [100 * value] * 2)
    return Series(sorted(curve), [100 * curve[layer] for layer in sorted(curve)])
