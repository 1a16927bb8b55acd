"""Whiten: keeps the covariance of channel groups near a multiple of the identity (gradient only).

Source: icefall ``scaling.py`` (Whiten, _whitening_metric). The metric's gradient is written out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssl_audio.models.zipformer.schedules import PiecewiseLinear, Scheduled, happens

PASS_PROB, VIOLATION_PROB = 0.025, 0.25  # how often to look, after the last look's outcome
TINY = 1e-20


def whitening_metric(x: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """The metric, () >= 1 and 1 for white groups, and its gradient with respect to ``x`` (..., C).

    sum of squared covariance entries / C, over the squared mean variance; per group of C / groups
    neighbouring channels, which share the two sums. float32.
    """
    frames = x.reshape(-1, num_groups, x.shape[-1] // num_groups).transpose(0, 1).float()
    frames = frames - frames.mean(dim=1, keepdim=True)
    covariance = frames.transpose(1, 2) @ frames
    channels = x.shape[-1]
    mean_square = covariance.square().sum() / channels
    mean_variance = (covariance.diagonal(dim1=1, dim2=2).sum() / channels).clamp_min(TINY)
    metric = mean_square / (mean_variance.square() + TINY)
    # d mean_square = 4 frames @ covariance / C, d mean_variance = 2 frames / C
    scale = 4 / (channels * mean_variance.square() + TINY)
    shift = torch.eye(covariance.shape[-1], device=x.device) * (metric * mean_variance)
    gradient = frames @ ((covariance - shift) * scale)
    return metric, gradient.transpose(0, 1).reshape(x.shape)


class _Whitened(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, module: Whiten, limit: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.module, ctx.limit = module, limit
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        (grad,) = grad_outputs
        with torch.autocast(x.device.type, enabled=False):
            metric, push = whitening_metric(x, ctx.module.num_groups)
            violated = metric >= ctx.limit
            ctx.module.last_look = violated
            size = ctx.module.grad_scale * grad.float().norm() / (push.norm() + TINY)
            changed = grad.float() + push * torch.where(violated, size, 0.0)
        return changed.to(grad.dtype), None, None


class Whiten(Scheduled):
    """Identity; in training it looks at some batches and, past ``limit``, pushes towards white.

    The added gradient has norm ``grad_scale`` times the incoming one. The outcome of the last look
    stays on the device in ``last_look`` until ``adapt`` turns it into the next probability.

    Attributes:
        prob: probability of looking at the next batch; training state, not in the state dict.
    """

    def __init__(self, num_groups: int, limit: PiecewiseLinear, grad_scale: float) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.limit = limit
        self.grad_scale = grad_scale
        self.prob = VIOLATION_PROB
        self.last_look: Tensor | None = None

    def adapt(self, violated: bool) -> None:
        """Looks often after a violation, seldom after a pass."""
        self.prob = VIOLATION_PROB if violated else PASS_PROB
        self.last_look = None

    def forward(self, x: Tensor) -> Tensor:
        if not (self.active and x.requires_grad and happens(self.prob)):
            return x
        return _Whitened.apply(x, self, self.limit(self.batch_count))
