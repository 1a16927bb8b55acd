"""Linear and convolution layers whose default initialisation is scaled (spec: ScaledLinear)."""

from __future__ import annotations

import torch
from torch import nn


def scale_init(module: nn.Module, scale: float) -> None:
    """Multiplies the weight by ``scale`` and draws the bias, if any, from U(-0.1, 0.1) * scale."""
    assert isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
    with torch.no_grad():
        module.weight.mul_(scale)
        if module.bias is not None:
            module.bias.uniform_(-0.1 * scale, 0.1 * scale)


def scaled_linear(in_dim: int, out_dim: int, scale: float, bias: bool = True) -> nn.Linear:
    """``nn.Linear`` that starts ``scale`` times smaller; ``scale`` 1 is PyTorch's own start."""
    layer = nn.Linear(in_dim, out_dim, bias=bias)
    if scale != 1.0:
        scale_init(layer, scale)
    return layer
