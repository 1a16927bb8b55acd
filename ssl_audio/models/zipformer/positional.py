"""Compact relative positional encoding (icefall ``zipformer.py``, CompactRelPositionalEncoding)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def relative_positions(num_frames: int, dim: int, device: torch.device | None = None) -> Tensor:
    """(2T - 1, dim) float32: row T - 1 + o encodes the offset o = key frame - query frame.

    Offsets are compressed logarithmically, then wrapped on half a circle, so that resolution is
    finest near 0 and an unlimited range fits. The last channel is the constant 1.
    """
    offset = torch.arange(-(num_frames - 1), num_frames, dtype=torch.float32, device=device)
    scale = math.sqrt(dim)
    compressed = scale * offset.sign() * ((offset.abs() + scale).log() - math.log(scale))
    angle = torch.atan(compressed * (2 * math.pi / dim))
    harmonics = angle[:, None] * torch.arange(1, dim // 2 + 1, device=device)
    table = torch.stack([harmonics.cos(), harmonics.sin()], dim=-1).flatten(1)
    table[:, -1] = 1.0
    return table
