"""Self-attention with a position bias that each query gates.

Axes: B clips, P patches, C channels, H heads, d channels of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_audio.models.beats.config import TransformerConfig

GATE_GROUPS, GATE_GROUP_SIZE = 2, 4


class GatedAttention(nn.Module):
    """Scaled dot-product attention, scores + gate(query) * position bias (WavLM's gate).

    gate = a (b w_h - 1) + 2, where a and b are sigmoids of projections of the query before scaling
    and w_h is learned per head. Source: unilm ``beats/backbone.py``, MultiheadAttention.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_heads, self.dropout = config.num_heads, config.attention_dropout
        self.q_proj = nn.Linear(config.dim, config.dim)
        self.k_proj = nn.Linear(config.dim, config.dim)
        self.v_proj = nn.Linear(config.dim, config.dim)
        self.out_proj = nn.Linear(config.dim, config.dim)
        self.gated = config.gated
        if config.gated:
            head_dim = config.dim // config.num_heads
            self.grep_linear = nn.Linear(head_dim, GATE_GROUPS * GATE_GROUP_SIZE)
            self.grep_a = nn.Parameter(torch.ones(1, config.num_heads, 1, 1))

    def forward(self, x: Tensor, bias: Tensor | None, visible: Tensor | None) -> Tensor:
        """(B, P, C) to the same shape.

        Args:
            bias: (1 or B, H, P, P) before gating, or None.
            visible: (B, P) bool, keys that may be looked at, at least one per clip; None for all.
        """
        query, key, value = (
            project(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=self.mask(query, bias, visible),
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def mask(self, query: Tensor, bias: Tensor | None, visible: Tensor | None) -> Tensor | None:
        """What is added to the scores, (B, H, P, P), or which keys are seen, (B, 1, 1, P)."""
        keys = None if visible is None else visible[:, None, None, :]
        if bias is None:
            return keys
        scores = bias.to(query.dtype)
        if self.gated:
            scores = self.gate(query).to(query.dtype) * scores
        return scores if keys is None else scores.masked_fill(~keys, float("-inf"))

    def gate(self, query: Tensor) -> Tensor:
        """(B, H, P, d) unscaled queries to (B, H, P, 1)."""
        # The official layer projects to 2 x 4 and sums the fours: so can its weights be summed.
        weight = self.grep_linear.weight.unflatten(0, (GATE_GROUPS, GATE_GROUP_SIZE)).sum(1)
        offset = self.grep_linear.bias.unflatten(0, (GATE_GROUPS, GATE_GROUP_SIZE)).sum(1)
        a, b = functional.linear(query, weight, offset).float().sigmoid().chunk(2, dim=-1)
        return a * (b * self.grep_a - 1.0) + 2.0
