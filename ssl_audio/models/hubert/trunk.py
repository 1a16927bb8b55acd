"""HuBERT's Transformer: positional convolution, then post-norm layers.

Axes: B clips, T frames, D hidden channels, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_audio.batch import valid_mask
from ssl_audio.models.hubert.config import HubertConfig
from ssl_audio.models.layer_drop import is_dropped, skipped


class PositionalConv(nn.Module):
    """Grouped convolution over time with weight norm per kernel position, GELU."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        dim, kernel = config.hidden_size, config.num_conv_pos_embeddings
        groups = config.num_conv_pos_embedding_groups
        conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(conv.weight, std=2 * (kernel * dim) ** -0.5)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        self.conv = nn.utils.parametrizations.weight_norm(conv, dim=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to the same shape."""
        # An even kernel gives one frame too many.
        return F.gelu(self.conv(x.transpose(1, 2))[:, :, : x.shape[1]]).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with biases everywhere."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.num_heads, self.dropout = config.num_attention_heads, config.attention_dropout
        dim, std = config.hidden_size, config.initializer_range
        self.k_proj = _linear(dim, dim, std)
        self.v_proj = _linear(dim, dim, std)
        self.q_proj = _linear(dim, dim, std)
        self.out_proj = _linear(dim, dim, std)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D); ``mask`` (B, 1, 1, T) bool, True for keys that may be seen."""
        heads = (self.num_heads, -1)
        query, key, value = (
            projection(x).unflatten(-1, heads).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.out_proj(x.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        dim, inner, std = config.hidden_size, config.intermediate_size, config.initializer_range
        self.intermediate_dense = _linear(dim, inner, std)
        self.intermediate_dropout = nn.Dropout(config.activation_dropout)
        self.output_dense = _linear(inner, dim, std)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to the same shape."""
        return self.output_dense(self.intermediate_dropout(F.gelu(self.intermediate_dense(x))))


class Layer(nn.Module):
    """Attention and feed-forward, each followed by dropout, addition and a layer norm."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) to the same shape; ``mask`` as in ``Attention``."""
        x = self.layer_norm(x + self.dropout(self.attention(x, mask)))
        return self.final_layer_norm(x + self.dropout(self.feed_forward(x)))


class Trunk(nn.Module):
    """Positional convolution, layer norm and layers."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.pos_conv_embed = PositionalConv(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.layerdrop = config.layerdrop

    def forward(
        self, x: Tensor, lengths: Tensor | None, prefix: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Projected frames (B, T, D) to the first layer's input and every layer's output.

        Args:
            lengths: (B,) valid frames, None when all are.
            prefix: (D,) put before the first frame, after the positional convolution; outputs then
                have T + 1 positions (SD-HuBERT's aggregator).
        """
        x, lengths = self.embed(x, lengths, prefix)
        return self.transform(x, lengths)

    def embed(
        self, x: Tensor, lengths: Tensor | None, prefix: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The first layer's input and its valid positions: padding becomes zeros, then positions
        are added, then ``prefix`` is put in front."""
        if lengths is not None:
            x = x * valid_mask(lengths, x.shape[1])[:, :, None]
        x = self.dropout(self.layer_norm(x + self.pos_conv_embed(x)))
        if prefix is not None:
            x = torch.cat([prefix.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
            lengths = None if lengths is None else lengths + 1
        return x, lengths

    def transform(
        self, x: Tensor, lengths: Tensor | None, layers: nn.ModuleList | None = None
    ) -> tuple[Tensor, ...]:
        """The layers: their input and each one's output, (B, T, D).

        Args:
            layers: a teacher's, in place of the own ones.
        """
        mask = None
        if lengths is not None:
            # A clip without a single frame sees one, lest its softmax be NaN.
            mask = valid_mask(lengths.clamp_min(1), x.shape[1])[:, None, None]
        states = [x]
        for layer in self.layers if layers is None else layers:
            x = skipped(layer, x) if is_dropped(self.layerdrop, layer.training) else layer(x, mask)
            states.append(x)
        return tuple(states)


def _linear(in_dim: int, out_dim: int, std: float) -> nn.Linear:
    linear = nn.Linear(in_dim, out_dim)
    nn.init.normal_(linear.weight, std=std)
    nn.init.zeros_(linear.bias)
    return linear
