"""SwooshL and SwooshR (arXiv 2310.11230, eq. 2-3): one pass forward, one backward, input saved."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.08  # the linear term that both share


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)); may overwrite ``x``."""
    if x.device.type != "cpu":
        return F.softplus(x)
    # PyTorch's log1p is scalar on AVX-512: log(1 + .) is four times faster, 6e-8 away.
    tail = x.abs().neg_().exp_().add_(1).log_()
    return tail.add_(x.clamp_min_(0))


class _Swoosh(torch.autograd.Function):
    """log(1 + exp(x - shift)) - 0.08 x - offset in float32, result in the type of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: float, offset: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.shift = shift
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return _softplus(wide - shift).sub_(wide, alpha=SLOPE).sub_(offset).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        slope = torch.sigmoid(x - ctx.shift).sub_(SLOPE)
        return slope.mul_(grad_outputs[0]), None, None


def swoosh_l(x: Tensor) -> Tensor:
    """log(1 + exp(x - 4)) - 0.08 x - 0.035; for modules that should be near zero at rest."""
    return _Swoosh.apply(x, 4.0, 0.035)


def swoosh_r(x: Tensor) -> Tensor:
    """log(1 + exp(x - 1)) - 0.08 x - 0.313261687, zero at zero; for the convolution modules."""
    return _Swoosh.apply(x, 1.0, 0.313261687)


class SwooshR(nn.Module):
    """``swoosh_r`` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return swoosh_r(x)
