"""One Zipformer layer (arXiv 2310.11230, figure 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_audio.models.zipformer.attention import AttentionWeights, NonlinAttention, SelfAttention
from ssl_audio.models.zipformer.balancer import Balancer
from ssl_audio.models.zipformer.bypass import Bypass
from ssl_audio.models.zipformer.conv import ConvModule
from ssl_audio.models.zipformer.feed_forward import FeedForward
from ssl_audio.models.zipformer.norm import BiasNorm
from ssl_audio.models.zipformer.schedules import (
    PiecewiseLinear,
    Scheduled,
    keep_sequences,
    ramp,
)
from ssl_audio.models.zipformer.whiten import Whiten

MODULE_SKIP = PiecewiseLinear(((0, 0.2), (4000, 0.05), (16_000, 0.0)))  # attention, convolution
FEED_FORWARD_SKIP = PiecewiseLinear(((0, 0.1), (4000, 0.01), (50_000, 0.0)))


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """Dimensions of a layer; ``dim`` is its width C."""

    dim: int
    pos_dim: int
    num_heads: int
    query_head_dim: int
    pos_head_dim: int
    value_head_dim: int
    feedforward_dim: int
    cnn_module_kernel: int


class ZipformerLayer(Scheduled):
    """(B, T, C) to (B, T, C): attention weights are computed once and used three times."""

    bypass_scale: Tensor

    def __init__(self, sizes: LayerSizes, skip: PiecewiseLinear | None = None) -> None:
        super().__init__()
        dim, heads = sizes.dim, sizes.num_heads
        # Never read, but official checkpoints hold it; a buffer, so that nothing waits for its
        # gradient.
        self.register_buffer("bypass_scale", torch.full((dim,), 0.5))
        self.bypass = Bypass(dim, skip)
        self.bypass_mid = Bypass(dim)
        self.self_attn_weights = AttentionWeights(
            dim, heads, sizes.query_head_dim, sizes.pos_head_dim, sizes.pos_dim
        )
        self.self_attn1 = SelfAttention(dim, heads, sizes.value_head_dim)
        self.self_attn2 = SelfAttention(dim, heads, sizes.value_head_dim)
        self.feed_forward1 = FeedForward(dim, sizes.feedforward_dim * 3 // 4)
        self.feed_forward2 = FeedForward(dim, sizes.feedforward_dim)
        self.feed_forward3 = FeedForward(dim, sizes.feedforward_dim * 5 // 4)
        self.nonlin_attention = NonlinAttention(dim, 3 * dim // 4)
        self.conv_module1 = ConvModule(dim, sizes.cnn_module_kernel)
        self.conv_module2 = ConvModule(dim, sizes.cnn_module_kernel)
        self.norm = BiasNorm(dim)
        self.nonlin_balancer = Balancer(
            min_positive=0.3, max_positive=0.7, min_abs=ramp(0.004, 0.02, 4000), prob=0.05
        )
        self.feed_forward2_balancer = Balancer(
            min_positive=0.3, max_positive=0.7, min_abs=ramp(0.0, 0.1, 4000), max_abs=2.0, prob=0.05
        )
        self.feed_forward3_balancer = Balancer(
            min_positive=0.3, max_positive=0.7, min_abs=ramp(0.0, 0.2, 4000), max_abs=4.0, prob=0.05
        )
        self.norm_balancer = Balancer(
            min_positive=0.45, max_positive=0.55, min_abs=0.2, max_abs=4.0
        )
        self.out_balancer = Balancer(min_positive=0.45, max_positive=0.55, min_abs=0.1, max_abs=4.0)
        self.out_whiten = Whiten(1, ramp(4.0, 12.0, over=20_000), grad_scale=0.01)

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor | None = None) -> Tensor:
        """``positions`` (2T - 1, P); ``padding`` (B, T) is True past a clip's end."""
        start = x
        weights = self.self_attn_weights(x, positions, padding)
        keep_attention = keep_sequences(x.shape[0], self.rate(MODULE_SKIP), like=x)
        x = x + self.feed_forward1(x)
        x = _add(x, self.nonlin_balancer(self.nonlin_attention(x, weights[:, 0])), keep_attention)
        x = _add(x, self.self_attn1(x, weights), keep_attention)
        x = self._add_or_skip(x, self.conv_module1(x, padding), MODULE_SKIP)
        x = self._add_or_skip(
            x, self.feed_forward2_balancer(self.feed_forward2(x)), FEED_FORWARD_SKIP
        )
        x = self.bypass_mid(start, x)
        x = _add(x, self.self_attn2(x, weights), keep_attention)
        x = self._add_or_skip(x, self.conv_module2(x, padding), MODULE_SKIP)
        x = self._add_or_skip(
            x, self.feed_forward3_balancer(self.feed_forward3(x)), FEED_FORWARD_SKIP
        )
        x = self.bypass(start, self.norm(self.norm_balancer(x)))
        return self.out_whiten(self.out_balancer(x))

    def _add_or_skip(self, x: Tensor, residual: Tensor, skip: PiecewiseLinear) -> Tensor:
        return _add(x, residual, keep_sequences(x.shape[0], self.rate(skip), like=x))


def _add(x: Tensor, residual: Tensor, keep: Tensor | None) -> Tensor:
    return x + residual if keep is None else torch.addcmul(x, residual, keep)
