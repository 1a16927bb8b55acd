"""Sylber's learning rate as a pure function of the progress."""

from __future__ import annotations

import math


def warmup_hold_cosine_lr(
    base_lr: float,
    step: float,
    warmup_steps: float,
    total_steps: float,
    *,
    hold_steps: float = 0,
    min_factor: float = 0.0,
) -> float:
    """Linear from 0 up to ``base_lr``, a plateau, then half a cosine down.

    Args:
        base_lr: the highest rate, reached at ``warmup_steps``.
        step: optimizer steps done.
        warmup_steps: 0 for none.
        total_steps: length of the way down; warm-up and plateau come on top.
        hold_steps: length of the plateau.
        min_factor: where it ends, relative to ``base_lr``; 1 keeps the rate after the warm-up.

    Raises:
        ValueError: a constant is out of range.
    """
    if min(warmup_steps, hold_steps) < 0 or total_steps <= 0 or not 0 <= min_factor <= 1:
        raise ValueError(
            f"task.schedule: needs warmup_steps >= 0, hold_steps >= 0, total_steps > 0 and "
            f"min_factor in 0 .. 1; got {warmup_steps}, {hold_steps}, {total_steps}, {min_factor}"
        )
    if step < warmup_steps:
        return base_lr * step / warmup_steps
    progress = min(1.0, max(0.0, step - warmup_steps - hold_steps) / total_steps)
    return base_lr * (min_factor + (1 - min_factor) * (1 + math.cos(math.pi * progress)) / 2)
