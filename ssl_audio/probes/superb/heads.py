"""Pooling over time and SUPERB's utterance-level head.

Axes: B clips, T frames, D channels, H hidden channels, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl_audio.batch import valid_mask


def mean_pool(frames: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, D) and (B,) to (B, D) means over valid frames."""
    mask = valid_mask(lengths, frames.shape[1]).to(frames)[..., None]
    return (frames * mask).sum(1) / lengths.to(frames)[:, None]


def mean_std_pool(frames: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, D) and (B,) to (B, 2 D): means, then deviations of the sample (0 for one frame)."""
    mask = valid_mask(lengths, frames.shape[1]).to(frames)[..., None]
    mean = mean_pool(frames, lengths)
    squares = ((frames - mean[:, None]) * mask).square().sum(1)
    variance = squares / (lengths.to(frames)[:, None] - 1).clamp(min=1)
    # The gradient of a root is infinite at 0, where all frames are equal.
    return torch.cat([mean, variance.clamp(min=1e-12).sqrt()], dim=1)


class MeanPoolLinear(nn.Module):
    """Linear, mean over valid frames, Linear (KS, SID, ER, IC; SUPERB, arXiv:2105.01051, 3.2).

    Args:
        dim: D.
        hidden: H.
        num_classes: C, or the sum of them over the slots of IC.
    """

    def __init__(self, dim: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.projector = nn.Linear(dim, hidden)
        self.output = nn.Linear(hidden, num_classes)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, D) and (B,) to logits (B, C)."""
        return self.output(mean_pool(self.projector(frames), lengths))
