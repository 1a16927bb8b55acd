"""SUPERB's learned sum of layers, and s3prl's rule for the number of frames.

Axes: L layers, B clips, T frames, D channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LAYER_NORM_EPS = 1e-5


class Featurizer(nn.Module):
    """Softmax-weighted sum of layers, from equal weights on (SUPERB, arXiv:2105.01051, 3.1).

    Args:
        num_layers: L.
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(num_layers))

    @property
    def weights(self) -> Tensor:
        """(L,), they sum to 1."""
        return self.logits.softmax(-1)

    def forward(self, layers: Tensor) -> Tensor:
        """(L, ..., D) to (..., D)."""
        return torch.tensordot(self.weights, layers, dims=1)


def normalised(states: Tensor) -> Tensor:
    """(..., D) frames with mean 0 and variance 1 over D: s3prl's ``normalize`` of layers."""
    return functional.layer_norm(states, states.shape[-1:], eps=LAYER_NORM_EPS)


def widened(states: Tensor, dim: int) -> Tensor:
    """(..., d) to (..., ``dim``), zeros behind: how layers of different width can be summed."""
    return functional.pad(states, (0, dim - states.shape[-1]))


def num_matched_frames(num_samples: Any, stride: int) -> Any:
    """s3prl's number of frames for a clip (int or int64 Tensor)."""
    return (num_samples - 1) // stride + 1


def match_frames(states: Tensor, num_frames: Tensor, num_wanted: Tensor) -> Tensor:
    """Cuts frames that are too many, repeats the last valid one where they are too few.

    Args:
        states: (B, T, D).
        num_frames: (B,) valid frames, at least 1.
        num_wanted: (B,) frames to have.

    Returns:
        (B, largest of num_wanted, D), zero behind the wanted frames.
    """
    if not states.shape[1]:  # too short for a frame
        states = functional.pad(states, (0, 0, 0, 1))
    positions = torch.arange(int(num_wanted.max()), device=states.device)
    last = (num_frames - 1).clamp(min=0).to(states.device)
    index = torch.minimum(positions, last[:, None])
    inside = positions < num_wanted.to(states.device)[:, None]
    picked = states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))
    return picked * inside[..., None]
