"""Identity-forward functions that change gradients: parameter limits, score penalty, scaling.

Source: icefall ``scaling.py`` (limit_param_value, penalize_abs_values_gt, ScaleGrad).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssl_audio.models.scale_gradient import scale_gradient
from ssl_audio.models.zipformer.schedules import happens


class _LimitParameter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.low, ctx.high = low, high
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        (grad,) = grad_outputs
        # A descent step moves x along -grad: flip whatever would carry it further outside.
        leaving = ((grad > 0) & (x < ctx.low)) | ((grad < 0) & (x > ctx.high))
        return torch.where(leaving, -grad, grad), None, None


def limit_parameter(x: Tensor, low: float, high: float, probability: float = 1.0) -> Tensor:
    """``x`` itself; with ``probability``, gradients that push it out of [low, high] change sign."""
    return _LimitParameter.apply(x, low, high) if happens(probability) else x


class _PenalizeLarge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float, penalty: float) -> Tensor:
        ctx.save_for_backward(torch.where(x.abs() > limit, x.sign(), 0.0).to(torch.int8))
        ctx.penalty = penalty
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (sign,) = ctx.saved_tensors
        return grad_outputs[0].add(sign, alpha=ctx.penalty), None, None


def penalize_large(x: Tensor, limit: float = 25.0, penalty: float = 1e-4) -> Tensor:
    """``x`` itself; the gradient gains ``penalty * sign(x)`` where abs(x) > ``limit``."""
    return _PenalizeLarge.apply(x, limit, penalty)


class ScaleGradient(nn.Module):
    """Identity whose gradient is multiplied by ``scale``."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return scale_gradient(x, self.scale)
