from __future__ import annotations

import io

import rich
from rich.console import Console

from ssl_audio.probes.progress import fraction_bar, with_bar


def test_bars_of_parts_stand_below_that_of_the_whole(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(rich, "_console", console)
    seen = []
    for task in with_bar(["a", "b"], "suite"):
        seen += [(task, x) for x in with_bar(iter((1, 2)), f"part {task}", 2)]
        with fraction_bar(True, f"fraction {task}") as advance:
            advance(0.5)
    assert seen == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    for title in ("suite", "part a", "part b", "fraction a", "fraction b"):
        assert title in screen.getvalue()


def test_no_terminal_and_no_title_mean_no_bar(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(rich, "_console", Console(file=screen, width=100))
    assert list(with_bar(range(3), "title")) == [0, 1, 2]
    monkeypatch.setattr(rich, "_console", Console(file=screen, force_terminal=True, width=100))
    assert list(with_bar(range(3), "")) == [0, 1, 2]
    with fraction_bar(False, "title") as advance:
        advance(1.0)
    assert screen.getvalue() == ""


def test_a_loop_left_early_clears_its_bars(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(rich, "_console", Console(file=screen, force_terminal=True, width=100))
    for _ in with_bar(range(3), "first"):
        break
    screen.truncate(0)
    assert list(with_bar(range(2), "second")) == [0, 1]
    assert "second" in screen.getvalue()
    assert "first" not in screen.getvalue()
