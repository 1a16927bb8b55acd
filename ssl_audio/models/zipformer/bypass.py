"""Learned per-channel interpolation between a block's input and output."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl_audio.models.zipformer.limits import limit_parameter
from ssl_audio.models.zipformer.schedules import (
    PiecewiseLinear,
    Scheduled,
    constant,
    keep_sequences,
    ramp,
)

LIMIT_PROB = 0.6


class Bypass(Scheduled):
    """x + (y - x) * scale. In training whole sequences skip the block with the ``skip`` rate."""

    def __init__(self, dim: int, skip: PiecewiseLinear | None = None) -> None:
        super().__init__()
        self.bypass_scale = nn.Parameter(torch.full((dim,), 0.5))
        self.skip = skip or constant(0.0)
        self.lowest = ramp(0.9, 0.2, over=20_000)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Input and output of the block, both (B, T, C)."""
        scale: Tensor = self.bypass_scale
        if self.active:
            scale = limit_parameter(scale, self.lowest(self.batch_count), 1.0, LIMIT_PROB)
        keep = keep_sequences(x.shape[0], self.rate(self.skip), like=x)
        if keep is not None:
            scale = scale * keep
        return torch.lerp(x, y, scale.to(x.dtype).expand_as(x))
