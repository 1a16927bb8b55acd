"""Progress bars that show in a terminal and stay out of logs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from rich import get_console
from rich.progress import track

Item = TypeVar("Item")


def with_bar(items: Iterable[Item], title: str, total: int | None = None) -> Iterable[Item]:
    """``items`` and, while they are used, a bar with a title.

    Args:
        items: to go through.
        title: empty shows nothing.
        total: how many there are, where ``items`` cannot tell.
    """
    hidden = not title or not get_console().is_terminal
    return track(items, title, total, transient=True, disable=hidden)
