"""A progress bar for what a callback does while the training's own bar stands still."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar

from ssl_audio.probes.progress import fraction_bar

FULL = 100  # the training's bar counts in whole numbers


@contextmanager
def bar_of(trainer: Trainer, title: str) -> Iterator[Callable[[float], None]]:
    """Takes the fraction that is done; a line of Lightning's bar where that is being drawn."""
    bar = trainer.progress_bar_callback
    progress = bar.progress if isinstance(bar, RichProgressBar) else None
    if progress is None or not progress.live.is_started:
        with fraction_bar(bar is not None and trainer.is_global_zero, title) as advance:
            yield advance
        return
    task = progress.add_task(title, total=FULL)
    try:
        yield lambda fraction: progress.update(task, completed=int(FULL * fraction), refresh=True)
    finally:
        progress.remove_task(task)
