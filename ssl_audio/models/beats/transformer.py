"""BEATs' Transformer: the encoder's body, the tokenizer's estimator and the label predictor.

Axes: B clips, P patches, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_audio.batch import valid_mask
from ssl_audio.models.beats.activations import ACTIVATIONS, GatedLinear
from ssl_audio.models.beats.attention import GatedAttention
from ssl_audio.models.beats.config import TransformerConfig
from ssl_audio.models.beats.positions import (
    ConvolutionalPositions,
    RelativeBias,
    without_padding,
)
from ssl_audio.models.scale_gradient import scale_gradient


class TransformerLayer(nn.Module):
    """Attention and feed-forward with residuals; post-norm (DeepNorm) or pre-norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.alpha = (2 * config.num_layers) ** 0.25 if config.deep_norm else 1.0
        self.self_attn = GatedAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.dim)
        self.fc1: nn.Module
        if config.activation == "glu":
            self.fc1, self.activation = GatedLinear(config.dim, config.ffn_dim), None
        else:
            self.fc1 = nn.Linear(config.dim, config.ffn_dim)
            self.activation = ACTIVATIONS[config.activation]
        self.fc2 = nn.Linear(config.ffn_dim, config.dim)
        self.final_layer_norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor, bias: Tensor | None, visible: Tensor | None) -> Tensor:
        """(B, P, C) to the same shape; ``bias`` and ``visible`` as in ``GatedAttention``."""
        if self.config.layer_norm_first:
            x = x + self._dropped(self.self_attn(self.self_attn_layer_norm(x), bias, visible))
            return x + self.feed_forward(self.final_layer_norm(x))
        y = self._dropped(self.self_attn(x, bias, visible))
        x = self.self_attn_layer_norm(self.alpha * x + y)
        return self.final_layer_norm(self.alpha * x + self.feed_forward(x))

    def feed_forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if self.activation is not None:
            x = self.activation(x)
        x = functional.dropout(x, self.config.activation_dropout, self.training)
        return self._dropped(self.fc2(x))

    def _dropped(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.config.dropout, self.training)


class Transformer(nn.Module):
    """A stack of layers that share one table of relative position bias.

    Initial weights: N(0, 0.02) and zero biases; with DeepNorm xavier-normal, queries and keys with
    gain 1, the rest with (8 num_layers) ** -0.25.

    Example:
        >>> estimator = Transformer(replace(encoder.settings.transformer(), num_layers=3))
        >>> frames = estimator(x, lengths)[-1]  # (B, P, C)
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.relative_attention_bias: RelativeBias | None = None
        if config.num_buckets:
            self.relative_attention_bias = RelativeBias(
                config.num_buckets, config.max_distance, config.num_heads
            )
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        for layer in self.layers:
            initialize(layer, config)

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, positions: Tensor | None = None
    ) -> list[Tensor]:
        """The input and every layer's output, ``num_layers + 1`` of (B, P, C).

        Outputs after a clip's end, and those of a clip without valid patches, are finite and
        meaningless.

        Args:
            x: (B, P, C).
            lengths: (B,) valid patches, all when None.
            positions: (B, P) int64 where each patch stands; None for 0 .. P - 1.
        """
        bias = None
        if self.relative_attention_bias is not None:
            bias = self.relative_attention_bias(x.shape[1], positions)
        # A clip of padding looks at its first patch: a softmax over nothing would be NaN.
        visible = None if lengths is None else valid_mask(lengths.clamp_min(1), x.shape[1])
        states = [x]
        for layer in self.layers:
            x = scale_gradient(x, self.config.gradient_decay)
            x = untouched(x, layer, bias) if self._skips() else layer(x, bias, visible)
            states.append(x)
        return states

    def _skips(self) -> bool:
        """LayerDrop, drawn from torch's CPU generator."""
        return (
            self.training
            and self.config.layerdrop > 0
            and torch.rand((), device="cpu").item() < self.config.layerdrop
        )


class PositionalTransformer(Transformer):
    """The encoder's body: positions from a convolution, a layer norm, then the layers."""

    def __init__(self, config: TransformerConfig, conv_pos: int, conv_pos_groups: int) -> None:
        super().__init__(config)
        self.pos_conv = ConvolutionalPositions(config.dim, conv_pos, conv_pos_groups)
        self.layer_norm = nn.LayerNorm(config.dim)

    def embed(
        self, x: Tensor, lengths: Tensor | None, positions: Tensor | None, num_positions: int
    ) -> Tensor:
        """(B, P, C) patches to the first layer's input."""
        x = without_padding(x, lengths)
        x = x + (
            self.pos_conv(x) if positions is None else self.pos_conv.at(x, positions, num_positions)
        )
        if not self.config.layer_norm_first:
            x = self.layer_norm(x)
        return functional.dropout(x, self.config.dropout, self.training)

    def output(self, x: Tensor) -> Tensor:
        """The last layer's output, normalised where the layers do not do so."""
        return self.layer_norm(x) if self.config.layer_norm_first else x


def untouched(x: Tensor, layer: nn.Module, bias: Tensor | None) -> Tensor:
    """``x``, with a zero gradient for all that a layer which was left out would have used.

    Ranks leave out different layers, and still all reduce the same gradients; where one leaves out
    all of its layers, the shared bias too.
    """
    unused = [*layer.parameters(), *([] if bias is None else [bias])]
    return x + sum(0.0 * tensor.flatten()[0] for tensor in unused)


def initialize(layer: nn.Module, config: TransformerConfig) -> None:
    """Official initial weights of one layer (``init_bert_params``, then DeepNorm's)."""
    beta = (8 * config.num_layers) ** -0.25
    gains = {
        "q_proj": 1.0,
        "k_proj": 1.0,
        "v_proj": beta,
        "out_proj": beta,
        "fc1": beta,
        "fc2": beta,
    }
    for name, module in layer.named_modules():
        if isinstance(module, nn.Linear):
            gain = gains.get(name.rpartition(".")[2])
            nn.init.zeros_(module.bias)
            if config.deep_norm and gain is not None:
                nn.init.xavier_normal_(module.weight, gain)
            else:
                nn.init.normal_(module.weight, std=0.02)
