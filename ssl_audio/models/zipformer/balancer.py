"""Balancer: keeps each channel's sign balance and size in range through its gradient only.

Source: icefall ``scaling.py`` (Balancer, BalancerFunction). The penalty there is differentiated by
autograd; here its gradient, affine in x for each channel, is written out.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ssl_audio.models.zipformer.schedules import (
    PiecewiseLinear,
    Scheduled,
    constant,
    happens,
    ramp,
)

TINY = 1e-20
MIN_RELATIVE_VARIANCE = 1e-6
# For a Gaussian: mean/std as a function of the share of positive values, and rms over mean |x|.
MEAN_PER_ATANH = 0.8139535143
RMS_PER_ABS = 1.25331413732


def _penalty_gradient(
    x: Tensor, dims: list[int], mean_limits: tuple[float, float], rms_limits: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Per channel (a, b) such that d penalty / dx is proportional to a + b x, with rms 1.

    penalty = abs(m - clamp(m)) + abs(ln(clamp(rms) / rms)) with m = mean / std; both numbers are 0
    for a channel in range.
    """
    mean = x.mean(dim=dims, keepdim=True).double()
    power = x.square().mean(dim=dims, keepdim=True).double().clamp_min(TINY)
    # Of a channel that is all but constant, float32 knows the deviation no better than this.
    variance = (power - mean.square()).clamp_min(MIN_RELATIVE_VARIANCE * power)
    std, rms = variance.sqrt(), power.sqrt()
    ratio = mean / std
    mean_side = torch.sign(ratio - ratio.clamp(*mean_limits))
    rms_side = torch.sign(rms - rms.clamp(*rms_limits))
    # The gradient over 1 / std, split at the channel's mean: offset + slope * (x - mean).
    offset = mean_side + rms_side * std * mean / power
    slope = rms_side * std / power - mean_side * mean / variance
    size = torch.hypot(offset, slope * std).clamp_min(TINY)
    return ((offset - slope * mean) / size).float(), (slope / size).float()


class _Balance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        channel_dim: int,
        mean_limits: tuple[float, float],
        rms_limits: tuple[float, float],
        grad_scale: float,
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.dims = [dim for dim in range(x.ndim) if dim != channel_dim % x.ndim]
        ctx.mean_limits, ctx.rms_limits, ctx.grad_scale = mean_limits, rms_limits, grad_scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None]:
        (x,) = ctx.saved_tensors
        (grad,) = grad_outputs
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            a, b = _penalty_gradient(x, ctx.dims, ctx.mean_limits, ctx.rms_limits)
            push = torch.addcmul(a * ctx.grad_scale, x, b * ctx.grad_scale)
            changed = torch.addcmul(grad.float(), grad.float().abs(), push)
        return changed.to(grad.dtype), None, None, None, None


class Balancer(Scheduled):
    """Identity; in training, with some probability, adds abs(grad) * g to the gradient.

    g pushes channels whose share of positive values or mean magnitude lies outside the limits back
    inside, and has rms ``grad_scale`` per channel.

    Args:
        channel_dim: the dim that is not averaged over.
        min_positive, max_positive: limits on the share of positive values, in [0, 1].
        min_abs, max_abs: limits on the mean magnitude, >= 0.
        grad_scale: rms of g.
        prob: probability that a batch is balanced.
    """

    def __init__(
        self,
        channel_dim: int = -1,
        min_positive: float | PiecewiseLinear = 0.05,
        max_positive: float | PiecewiseLinear = 0.95,
        min_abs: float | PiecewiseLinear = 0.2,
        max_abs: float | PiecewiseLinear = 100.0,
        grad_scale: float = 0.04,
        prob: float | PiecewiseLinear | None = None,
    ) -> None:
        super().__init__()
        self.channel_dim = channel_dim
        self.min_positive = _as_schedule(min_positive)
        self.max_positive = _as_schedule(max_positive)
        self.min_abs = _as_schedule(min_abs)
        self.max_abs = _as_schedule(max_abs)
        self.grad_scale = grad_scale
        self.prob = ramp(0.5, 0.125, over=8000) if prob is None else _as_schedule(prob)

    def limits(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The (lower, upper) limits on mean/std and on the rms at this batch count."""
        count = self.batch_count
        low, high = (
            MEAN_PER_ATANH * _atanh(2 * schedule(count) - 1)
            for schedule in (self.min_positive, self.max_positive)
        )
        smallest, largest = (
            RMS_PER_ABS * schedule(count) for schedule in (self.min_abs, self.max_abs)
        )
        return (low, high), (smallest, largest)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.active and x.requires_grad and happens(self.prob(self.batch_count))):
            return x
        return _Balance.apply(x, self.channel_dim, *self.limits(), self.grad_scale)


def _as_schedule(value: float | PiecewiseLinear) -> PiecewiseLinear:
    return value if isinstance(value, PiecewiseLinear) else constant(value)


def _atanh(x: float) -> float:
    """atanh, finite at the ends (a limit of 0 or 1 on a share never binds)."""
    bound = 1 - 1e-7
    return math.atanh(min(max(x, -bound), bound))
