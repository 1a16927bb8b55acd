"""LayerDrop (arXiv 1909.11556) for distributed training without a search for unused parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def is_dropped(prob: float, training: bool) -> bool:
    """One draw from torch's CPU generator, which the task seeds before each step."""
    return training and prob > 0.0 and torch.rand(()).item() < prob


def skipped(layer: nn.Module, x: Tensor) -> Tensor:
    """``x`` as it is; the parameters of ``layer`` get a gradient of zeros.

    Ranks drop different layers, and a data-parallel reduction waits for every parameter's gradient.
    """
    trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    return _Untouched.apply(x, *trained) if trained and torch.is_grad_enabled() else x


class _Untouched(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return (gradients[0], *(torch.zeros_like(p) for p in ctx.saved_tensors))
