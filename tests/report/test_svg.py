from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from ssl_audio.report.events import Series
from ssl_audio.report.svg import HEIGHT, LEFT, MAX_POINTS, TOP, WIDTH, line_chart, nice_ticks


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3, 7), (0.0012, 0.0057), (5, 5), (0, 0), (1e5, 4e6), (99.9, 100)]
)
def test_ticks_are_round_and_enclose_the_range(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low + 1e-12
    assert ticks[-1] >= high - 1e-12
    assert 2 <= len(ticks) <= 9
    step = ticks[1] - ticks[0]
    mantissa = step / 10 ** math.floor(math.log10(step))
    assert min(abs(mantissa - x) for x in (1, 2, 2.5, 5, 10)) < 1e-6


def points_of(svg: str) -> list[list[tuple[float, float]]]:
    lines = ElementTree.fromstring(svg).iter("polyline")
    return [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.get("points").split())]
        for line in lines
    ]


def test_lines_lie_inside_and_rise_with_their_values():
    svg = line_chart("loss <&>", {"a": Series([0, 5, 10], [1.0, 2.0, 4.0])})
    (line,) = points_of(svg)
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    assert [y for _, y in line] == sorted((y for _, y in line), reverse=True)
    assert all(LEFT <= x <= WIDTH and TOP <= y <= HEIGHT for x, y in line)
    assert "loss &lt;&amp;&gt;" in svg


def test_values_that_are_not_finite_are_left_out():
    nan = float("nan")
    (line,) = points_of(line_chart("x", {"a": Series([0, 1, 2], [1.0, nan, 3.0])}))
    assert len(line) == 2
    assert "no finite value" in line_chart("x", {"a": Series([0], [nan])})


def test_long_curves_are_thinned_but_keep_their_end():
    series = Series(list(range(10_000)), [float(i) for i in range(10_000)])
    (line,) = points_of(line_chart("x", {"a": series}))
    assert len(line) <= 2 * MAX_POINTS
    (whole,) = points_of(line_chart("x", {"a": Series([0, 9_999], [0.0, 9_999.0])}))
    assert line[-1] == whole[-1]


def test_several_lines_have_a_legend_and_a_single_value_is_a_dot():
    svg = line_chart("x", {"one": Series([3], [1.0]), "two": Series([1, 5], [2.0, 2.0])})
    texts = [element.text for element in ElementTree.fromstring(svg).iter("text")]
    assert {"one", "two"} <= set(texts)
    assert svg.count("<circle") == 1
