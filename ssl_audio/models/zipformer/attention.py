"""Attention weights with relative positions, computed once a layer, and the three that use them.

Axes: B clips, T frames, C channels, H heads.
"""

from __future__ import annotations

from torch import Tensor, nn

from ssl_audio.models.zipformer.balancer import Balancer
from ssl_audio.models.zipformer.init import scaled_linear
from ssl_audio.models.zipformer.limits import penalize_large
from ssl_audio.models.zipformer.schedules import Scheduled, happens, ramp
from ssl_audio.models.zipformer.whiten import Whiten

MASKED_SCORE = -1000.0
DROP_POSITIONS = ramp(0.5, 0.0, over=4000)
SCORE_PENALTY_PROB = 0.1


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, T, H * d) to (B, H, T, d)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, T, d) to (B, T, H * d)."""
    return x.transpose(1, 2).flatten(2)


def by_key(scores: Tensor) -> Tensor:
    """(..., T, 2T - 1) scores by offset to (..., T, T) scores by key: out[i, j] = in[i, T-1-i+j].

    Read row after row, in[i, T-1-i+j] lies at (T-1) + i (2T-2) + j: a view, no gather.
    """
    num_frames = scores.shape[-2]
    if num_frames == 1:
        return scores
    rows = scores.flatten(-2)[
        ..., num_frames - 1 : num_frames - 1 + num_frames * (2 * num_frames - 2)
    ]
    return rows.unflatten(-1, (num_frames, 2 * num_frames - 2))[..., :num_frames]


class AttentionWeights(Scheduled):
    """(B, T, C) and (2T - 1, P) relative positions to attention weights (B, H, T, T).

    score = query . key + positional query . position; no 1/sqrt(d), it is in the initialisation.
    """

    def __init__(
        self, dim: int, num_heads: int, query_head_dim: int, pos_head_dim: int, pos_dim: int
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.splits = [num_heads * query_head_dim] * 2 + [num_heads * pos_head_dim]
        self.in_proj = scaled_linear(dim, sum(self.splits), scale=query_head_dim**-0.25)
        self.linear_pos = scaled_linear(pos_dim, num_heads * pos_head_dim, scale=0.05, bias=False)
        self.key_balancer = Balancer(
            min_positive=0.4, max_positive=0.6, min_abs=0.0, max_abs=100.0, prob=0.025
        )
        self.key_whiten = Whiten(num_heads, ramp(3.0, 6.0, over=20_000), grad_scale=0.025)

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor | None = None) -> Tensor:
        """``padding`` (B, T) is True past a clip's end."""
        query, key, pos_query = self.in_proj(x).split(self.splits, dim=-1)
        key = self.key_whiten(self.key_balancer(key))
        scores = split_heads(query, self.num_heads) @ split_heads(key, self.num_heads).mT
        scores = scores + self.position_scores(pos_query, positions)
        if self.active and happens(SCORE_PENALTY_PROB):
            scores = penalize_large(scores)
        if padding is not None:
            scores = scores.masked_fill(padding[:, None, None, :], MASKED_SCORE)
        return scores.softmax(dim=-1)

    def position_scores(self, pos_query: Tensor, positions: Tensor) -> Tensor:
        """(B, T, H * dp) to (B, H, T, T), or a zero when training leaves positions out."""
        if happens(self.rate(DROP_POSITIONS)):
            # Zero, but part of the graph: every parameter gets a gradient on every rank.
            return 0.0 * self.linear_pos.weight.sum()
        table = self.linear_pos(positions).unflatten(-1, (self.num_heads, -1)).permute(1, 2, 0)
        return by_key(split_heads(pos_query, self.num_heads) @ table)


class SelfAttention(nn.Module):
    """Values averaged with given weights: (B, T, C), (B, H, T, T) to (B, T, C)."""

    def __init__(self, dim: int, num_heads: int, value_head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(dim, num_heads * value_head_dim)
        self.out_proj = scaled_linear(num_heads * value_head_dim, dim, scale=0.05)
        self.whiten = Whiten(1, ramp(7.5, 22.5, over=20_000), grad_scale=0.01)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        values = split_heads(self.in_proj(x), self.num_heads)
        return self.whiten(self.out_proj(merge_heads(weights @ values)))


class NonlinAttention(nn.Module):
    """Gated values averaged with one head's weights: (B, T, C), (B, T, T) to (B, T, C)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(dim, 3 * hidden_dim)
        self.gate_balancer = Balancer(
            min_positive=ramp(0.25, 0.05, over=20_000),
            max_positive=ramp(0.75, 0.95, over=20_000),
            min_abs=0.5,
            max_abs=5.0,
        )
        self.value_whiten = Whiten(1, ramp(5.0, 10.0, over=20_000), grad_scale=0.01)
        self.out_proj = scaled_linear(hidden_dim, dim, scale=0.05)
        self.whiten = Whiten(1, ramp(5.0, 15.0, over=20_000), grad_scale=0.01)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        gate, value, out_gate = self.in_proj(x).chunk(3, dim=-1)
        value = self.value_whiten(value) * self.gate_balancer(gate).tanh()
        return self.whiten(self.out_proj((weights @ value) * out_gate))
