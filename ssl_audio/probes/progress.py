"""Progress bars."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich import get_console
from rich.progress import Progress, track

Item = TypeVar("Item")


def with_bar(items: Iterable[Item], title: str, total: int | None = None) -> Iterable[Item]:
    """``items`` and, while they are used, a bar with a title, in terminals only.

    Args:
        items: to go through.
        title: empty shows nothing.
        total: how many there are, where ``items`` cannot tell.
    """
    hidden = not title or not get_console().is_terminal
    return track(items, title, total, transient=True, disable=hidden)


@contextmanager
def fraction_bar(shown: bool, title: str) -> Iterator[Callable[[float], None]]:
    """A bar that takes the fraction that is done, or nothing at all."""
    with Progress(disable=not shown) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda fraction: bar.update(task, completed=fraction)
