"""Piecewise-linear schedules over the batch count, and modules that follow them.

Zipformer's training machinery relaxes over the first thousands of batches (icefall ``scaling.py``,
ScheduledFloat). Nothing here holds parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class PiecewiseLinear:
    """Linear between (batch count, value) ``points``, constant outside them."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        counts = [count for count, _ in self.points]
        if not counts or counts != sorted(set(counts)):
            raise ValueError(f"schedule points need rising batch counts, got {self.points}")

    def __call__(self, batch_count: float) -> float:
        if batch_count <= self.points[0][0]:
            return self.points[0][1]
        for (left, start), (right, end) in zip(self.points, self.points[1:], strict=False):
            if batch_count < right:
                return start + (end - start) * (batch_count - left) / (right - left)
        return self.points[-1][1]


def constant(value: float) -> PiecewiseLinear:
    """A schedule that never moves."""
    return PiecewiseLinear(((0.0, value),))


def ramp(start: float, end: float, over: float) -> PiecewiseLinear:
    """From ``start`` at batch 0 to ``end`` at batch ``over``."""
    return PiecewiseLinear(((0.0, start), (over, end)))


class Scheduled(nn.Module):
    """A module with behaviour that only training sees and that depends on the batch count.

    Attributes:
        regularize: the model's switch; False makes training use the inference graph.
        batch_count: batches trained so far; the model's ``set_batch_count`` writes it everywhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.regularize = True
        self.batch_count = 0.0

    @property
    def active(self) -> bool:
        return self.training and self.regularize

    def rate(self, schedule: PiecewiseLinear) -> float:
        """The schedule's value now, 0 outside training."""
        return schedule(self.batch_count) if self.active else 0.0


def happens(probability: float) -> bool:
    """One draw for the whole batch, from torch's CPU generator."""
    return probability > 0 and torch.rand(()).item() < probability


def keep_sequences(num_sequences: int, drop_rate: float, like: Tensor) -> Tensor | None:
    """(B, 1, 1) of ones and zeros in ``like``'s type, zero with ``drop_rate``; None drops nothing.

    Drawn on the CPU, so a step is replayed by ``torch.manual_seed`` whatever the device.
    """
    if drop_rate == 0:
        return None
    keep = torch.rand(num_sequences, 1, 1) >= drop_rate
    return keep.to(like.device, like.dtype, non_blocking=True)


def dropout_shared_over_time(x: Tensor, probability: float) -> Tensor:
    """Inverted dropout whose mask is the same at every frame of a clip, ``x`` (B, T, C)."""
    if probability == 0:
        return x
    keep = torch.empty(x.shape[0], 1, x.shape[2], dtype=x.dtype, device=x.device)
    return x * keep.bernoulli_(1 - probability).div_(1 - probability)
