"""Stacks of layers at one frame rate, and the resampling around them.

Axes: B clips, T frames at the model's rate, U frames at the stack's rate, C channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_audio.models.zipformer.bypass import Bypass
from ssl_audio.models.zipformer.layer import LayerSizes, ZipformerLayer
from ssl_audio.models.zipformer.positional import relative_positions
from ssl_audio.models.zipformer.schedules import PiecewiseLinear, Scheduled, constant

POSITION_DROPOUT = constant(0.15)


class LayerStack(Scheduled):
    """Layers of one width at one frame rate: (B, U, C) to the last output and every output."""

    def __init__(self, sizes: LayerSizes, skips: list[PiecewiseLinear]) -> None:
        super().__init__()
        self.pos_dim = sizes.pos_dim
        self.layers = nn.ModuleList(ZipformerLayer(sizes, skip) for skip in skips)

    def forward(
        self, x: Tensor, padding: Tensor | None, feature_mask: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """``padding`` (B, U) is True past the end; ``feature_mask`` (B, 1, C) scales channels."""
        positions = relative_positions(x.shape[1], self.pos_dim, x.device).to(x.dtype)
        positions = F.dropout(positions, self.rate(POSITION_DROPOUT))
        if feature_mask is not None:
            x = x * feature_mask
        outputs = []
        for layer in self.layers:
            x = layer(x, positions, padding)
            if feature_mask is not None:
                x = x * feature_mask
            outputs.append(x)
        return x, outputs


class Downsample(nn.Module):
    """Weighted mean of ``factor`` neighbouring frames, ceil(T / factor) of them."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.bias = nn.Parameter(torch.zeros(factor))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, T, C) to (B, U, C). An incomplete window repeats the last frame: of the tensor, or
        with ``lengths`` (B,) of each clip, so that padding never enters a valid frame.
        """
        num_frames = x.shape[1]
        if lengths is not None:
            last = x[torch.arange(len(x), device=x.device), (lengths - 1).clamp_min(0)]
            past = torch.arange(num_frames, device=x.device) >= lengths[:, None]
            x = torch.where(past[..., None], last[:, None], x)
        missing = -num_frames % self.factor
        if missing:
            x = torch.cat([x, x[:, -1:].expand(-1, missing, -1)], dim=1)
        weights = self.bias.softmax(dim=0).to(x.dtype)
        return (x.unflatten(1, (-1, self.factor)) * weights[:, None]).sum(dim=2)


def upsample(x: Tensor, factor: int, num_frames: int) -> Tensor:
    """Each frame ``factor`` times, cut to ``num_frames``: (B, U, C) to (B, T, C)."""
    return x.repeat_interleave(factor, dim=1)[:, :num_frames]


class DownsampledStack(nn.Module):
    """A stack at a ``factor`` times lower frame rate, interpolated with its input."""

    def __init__(self, stack: LayerStack, dim: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.downsample = Downsample(factor)
        self.encoder = stack
        self.out_combiner = Bypass(dim)

    def forward(
        self,
        x: Tensor,
        padding: Tensor | None,
        feature_mask: Tensor | None,
        lengths: Tensor | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """As ``LayerStack``, at full rate; the layer outputs are upsampled, before combination.

        ``padding`` (B, U) is at the stack's rate, ``lengths`` (B,) at the full rate or None.
        """
        num_frames = x.shape[1]
        _, outputs = self.encoder(self.downsample(x, lengths), padding, feature_mask)
        outputs = [upsample(output, self.factor, num_frames) for output in outputs]
        return self.out_combiner(x, outputs[-1]), outputs
