"""Feed-forward module: linear, SwooshL, dropout shared over time, linear."""

from __future__ import annotations

from torch import Tensor

from ssl_audio.models.zipformer.balancer import Balancer
from ssl_audio.models.zipformer.init import scaled_linear
from ssl_audio.models.zipformer.schedules import Scheduled, dropout_shared_over_time, ramp
from ssl_audio.models.zipformer.swoosh import swoosh_l
from ssl_audio.models.zipformer.whiten import Whiten

DROPOUT = ramp(0.3, 0.1, over=20_000)


class FeedForward(Scheduled):
    """(B, T, C) to (B, T, C) through ``hidden_dim`` channels."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.in_proj = scaled_linear(dim, hidden_dim, scale=1.0)
        self.balancer = Balancer(min_positive=0.3, max_positive=1.0, min_abs=0.75, max_abs=5.0)
        self.out_proj = scaled_linear(hidden_dim, dim, scale=0.1)
        self.whiten = Whiten(1, ramp(7.5, 15.0, over=20_000), grad_scale=0.01)

    def forward(self, x: Tensor) -> Tensor:
        hidden = swoosh_l(self.balancer(self.in_proj(x)))
        hidden = dropout_shared_over_time(hidden, self.rate(DROPOUT))
        return self.whiten(self.out_proj(hidden))
