"""Processes that probe together: each does a share, all know everything in the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed

T = TypeVar("T")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among ``count``; alone by default."""

    index: int = 0
    count: int = 1
    group: Any = None

    @classmethod
    def current(cls) -> Ranks:
        """Those of ``torch.distributed``; every process calls it."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return cls()
        group = None
        if torch.distributed.get_backend() != "gloo":
            group = torch.distributed.new_group(backend="gloo")  # features lie on the CPU
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size(), group)

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This process' part."""
        return list(items[self.index :: self.count])

    def each(self, work: Callable[[], T]) -> list[T]:
        """What ``work`` gives on every process.

        Raises:
            ValueError: it failed somewhere; all processes raise, so none waits for another.
        """
        result: T | None = None
        error: str | None = None
        try:
            result = work()
        except Exception as failure:
            if self.count == 1:
                raise
            error = f"rank {self.index}: {failure!r}"
        found: list[Any] = [(result, error)]
        if self.count > 1:
            found = [None] * self.count
            torch.distributed.all_gather_object(found, (result, error), group=self.group)
        errors = [error for _, error in found if error is not None]
        if errors:
            raise ValueError(errors[0])
        return [result for result, _ in found]
