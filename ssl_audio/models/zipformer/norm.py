"""BiasNorm (arXiv 2310.11230, section 3.3; icefall ``scaling.py``)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl_audio.models.zipformer.limits import limit_parameter
from ssl_audio.models.zipformer.schedules import Scheduled

LOG_SCALE_LIMIT = 1.5
LIMIT_PROB = 0.6


class BiasNorm(Scheduled):
    """x * exp(log_scale) / rms(x - bias) over the last dim: keeps some length, unlike LayerNorm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(dim).normal_(std=1e-4))
        self.log_scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        log_scale: Tensor = self.log_scale
        if self.active:
            log_scale = limit_parameter(log_scale, -LOG_SCALE_LIMIT, LOG_SCALE_LIMIT, LIMIT_PROB)
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        power = (wide - self.bias).square().mean(dim=-1, keepdim=True)
        return (wide * (log_scale.exp() * power.rsqrt())).to(x.dtype)
