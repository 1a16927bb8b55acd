"""Line charts as SVG text, without a script and without a font of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from ssl_audio.report.events import Series

WIDTH, HEIGHT = 420, 240
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 28, 34
MAX_POINTS = 400  # more than the chart has pixels for
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")


def line_chart(title: str, lines: Mapping[str, Series], x_label: str = "step") -> str:
    """An SVG element with one line per entry and, where there are several, a legend.

    Values that are not finite leave gaps; a chart without any finite value says so.
    """
    points = {
        name: [
            (step, value)
            for step, value in zip(line.steps, line.values, strict=True)
            if math.isfinite(value)
        ]
        for name, line in lines.items()
    }
    everything = [point for line in points.values() for point in line]
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f'<text x="{LEFT}" y="16" class="title">{escape(title)}</text>',
    ]
    if not everything:
        return "".join([*parts, f'<text x="{LEFT}" y="60">no finite value</text></svg>'])
    x_ticks = nice_ticks(min(x for x, _ in everything), max(x for x, _ in everything))
    y_ticks = nice_ticks(min(y for _, y in everything), max(y for _, y in everything))
    x_range = (min(x for x, _ in everything), max(x for x, _ in everything))
    y_range = (y_ticks[0], y_ticks[-1])

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_range[0]) / ((x_range[1] - x_range[0]) or 1)
        up = (y - y_range[0]) / ((y_range[1] - y_range[0]) or 1)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )

    parts += _axes(x_ticks, y_ticks, x_range, at, x_label)
    for index, (name, line) in enumerate(points.items()):
        colour = COLOURS[index % len(COLOURS)]
        thinned = line[:: max(1, len(line) // MAX_POINTS)]
        if line and thinned[-1] != line[-1]:
            thinned.append(line[-1])
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in thinned))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        if len(thinned) == 1:
            x, y = at(*thinned[0])
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>')
        if len(points) > 1:
            y = TOP + 12 * (index + 1)
            parts.append(
                f'<text x="{WIDTH - RIGHT - 4}" y="{y}" text-anchor="end" '
                f'style="fill:{colour}">{escape(name)}</text>'
            )
    return "".join([*parts, "</svg>"])


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers that enclose [low, high], at least two."""
    if low == high:
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / max(1, count - 1)
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _axes(
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_range: tuple[float, float],
    at: Callable[[float, float], tuple[float, float]],
    x_label: str,
) -> list[str]:
    parts = []
    for tick in y_ticks:
        x, y = at(x_range[0], tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" class="grid"/>')
        parts.append(f'<text x="{x - 5:.1f}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    for tick in x_ticks:
        if x_range[0] <= tick <= x_range[1]:
            x, _ = at(tick, y_ticks[0])
            parts.append(
                f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{tick:g}</text>'
            )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'
    )
    return parts
