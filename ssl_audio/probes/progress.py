"""Progress bars; those of parts stand below the bar of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import length_hint
from typing import TypeVar

from rich import get_console
from rich.progress import Progress

Item = TypeVar("Item")

_drawn: list[Progress] = []  # the bars on the screen, at most one set of them


def with_bar(items: Iterable[Item], title: str, total: int | None = None) -> Iterator[Item]:
    """``items`` and, while they are used, a bar with a title, in terminals only.

    Args:
        items: to go through.
        title: empty shows nothing.
        total: how many there are, where ``items`` cannot tell.
    """
    with _bars(bool(title) and get_console().is_terminal, transient=True) as bars:
        task = bars.add_task(title, total=total or length_hint(items) or None, visible=bool(title))
        try:
            for item in items:
                yield item
                bars.advance(task)
        finally:
            bars.remove_task(task)


@contextmanager
def fraction_bar(shown: bool, title: str) -> Iterator[Callable[[float], None]]:
    """A bar that takes the fraction that is done, or nothing at all."""
    with _bars(shown) as bars:
        task = bars.add_task(title, total=1.0, visible=shown)
        yield lambda fraction: bars.update(task, completed=fraction)


@contextmanager
def _bars(shown: bool, transient: bool = False) -> Iterator[Progress]:
    """Those on the screen, or new ones: two sets of bars cannot be drawn at once."""
    if not shown or _drawn:
        yield _drawn[0] if shown else Progress(disable=True)
        return
    with Progress(transient=transient) as bars:
        _drawn.append(bars)
        try:
            yield bars
        finally:
            _drawn.clear()
