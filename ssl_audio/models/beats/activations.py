"""Activations of BEATs' feed-forward layers, by their official names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional


def _identity(x: Tensor) -> Tensor:
    return x


_tanh_gelu = partial(functional.gelu, approximate="tanh")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_accurate": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "linear": _identity,
    "relu": functional.relu,
    "tanh": torch.tanh,
}


class GatedLinear(nn.Module):
    """(..., in_dim) to (..., out_dim): one half of a projection times the SiLU of the other."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, 2 * out_dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.linear(x).chunk(2, dim=-1)
        return value * functional.silu(gate)
