"""Learning rates as pure functions of the progress: nothing to save, nothing to resume."""

from __future__ import annotations

import math
from typing import Literal


def eden_lr(
    base_lr: float,
    batch: float,
    epoch: float,
    lr_batches: float,
    lr_epochs: float,
    warmup_batches: float = 500.0,
    warmup_start: float = 0.5,
) -> float:
    """Eden (icefall ``optim.py``; Zipformer, arXiv 2310.11230, section 3.4).

    Falls with the power -1/4 of ``(batch / lr_batches)**2 + 1`` and of the same for epochs.

    Args:
        base_lr: the highest rate.
        batch: optimizer steps done.
        epoch: epochs done; SPEAR counts hours of audio seen instead, then ``lr_epochs`` is hours.
        lr_batches: steps after which the first factor starts to fall, > 0.
        lr_epochs: the same in units of ``epoch``, > 0.
        warmup_batches: steps of linear warm-up; 0 for none.
        warmup_start: factor at step 0, in [0, 1].

    Raises:
        ValueError: a constant is out of range.
    """
    if lr_batches <= 0 or lr_epochs <= 0 or warmup_batches < 0 or not 0 <= warmup_start <= 1:
        raise ValueError(
            f"Eden needs lr_batches > 0, lr_epochs > 0, warmup_batches >= 0 and warmup_start in "
            f"[0, 1]; got {lr_batches}, {lr_epochs}, {warmup_batches} and {warmup_start}"
        )
    warmup = 1.0
    if batch < warmup_batches:
        warmup = warmup_start + (1.0 - warmup_start) * batch / warmup_batches
    return base_lr * _decay(batch / lr_batches) * _decay(epoch / lr_epochs) * warmup


def _decay(progress: float) -> float:
    return float((progress**2 + 1.0) ** -0.25)


def warmup_decay_lr(
    base_lr: float,
    step: float,
    warmup_steps: float,
    max_steps: float,
    *,
    shape: Literal["linear", "cosine"] = "linear",
    start_lr: float = 0.0,
    end_lr: float = 0.0,
) -> float:
    """Linear from ``start_lr`` up to ``base_lr``, then linear or cosine down to ``end_lr``.

    Args:
        base_lr: the highest rate, reached at ``warmup_steps``.
        step: optimizer steps done.
        warmup_steps: 0 for none, fewer than ``max_steps``.
        max_steps: the rate stays at ``end_lr`` from here on.
        shape: of the way down.
        start_lr, end_lr: in [0, ``base_lr``].

    Raises:
        ValueError: a constant is out of range, or another shape.
    """
    if not 0 <= warmup_steps < max_steps or not (
        0 <= min(start_lr, end_lr) <= max(start_lr, end_lr) <= base_lr
    ):
        raise ValueError(
            f"task.schedule: needs 0 <= warmup_steps < max_steps and rates between 0 and lr; got "
            f"{warmup_steps}, {max_steps}, start_lr={start_lr}, end_lr={end_lr}, lr={base_lr}"
        )
    if shape not in ("linear", "cosine"):
        raise ValueError(f"task.schedule.shape={shape}: choose linear or cosine")
    if step < warmup_steps:
        return start_lr + (base_lr - start_lr) * step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / (max_steps - warmup_steps))
    left = 1.0 - progress if shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return end_lr + (base_lr - end_lr) * left
