"""SD-HuBERT: a HuBERT with a learned position that gathers the sentence (arXiv 2310.10803).

Official code: github.com/cheoljun95/sdhubert. Axes: B clips, S samples, T frames, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ssl_audio.batch import EncoderOutput, full_lengths
from ssl_audio.checkpoints import CheckpointError
from ssl_audio.models.hubert import HubertEncoder
from ssl_audio.models.hubert.checkpoint import (
    aggregator,
    config_from_tensors,
    encoder_tensors,
    read_file,
)
from ssl_audio.models.hubert.trunk import Layer


class SdHubertEncoder(HubertEncoder):
    """HuBERT with an aggregator in front of the first frame, behind the positional convolution.

    ``frames`` and ``hidden_states`` are those of the frames; ``sentence_states`` has the
    aggregator's as well, at position 0.

    Args:
        config: keys of ``HubertConfig``.
    """

    kind: ClassVar[str] = "sdhubert"

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.cls_token = nn.Parameter(torch.randn(self.embed_dim) * self.embed_dim**-0.5)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        config: Mapping[str, Any] | None = None,
        num_layers: int | None = None,
    ) -> Self:
        """The official ``{"config", "state_dict"}`` file.

        Raises:
            CheckpointError: the file is missing, damaged, or has no HuBERT or no aggregator.
            ValueError: as ``from_state_dict``.
        """
        content = read_file(path)
        tensors = encoder_tensors(content, path)
        token = aggregator(content)
        if token is None:
            raise CheckpointError(
                f"{path} has no cls_token: not an SD-HuBERT; load it as a plain HuBERT"
            )
        config = dict(config or config_from_tensors(tensors, path))
        if num_layers is not None:
            config["num_hidden_layers"] = num_layers
        return cls.from_state_dict({**tensors, "cls_token": token.flatten()}, config)

    def forward_features(
        self,
        features: Tensor,
        lengths: Tensor | None = None,
        time_mask: Tensor | None = None,
    ) -> EncoderOutput:
        """As a HuBERT's; the frames have seen the aggregator."""
        x, num_frames = self.project(features, lengths)
        if time_mask is not None:
            x = self.masked(x, time_mask)
        total = self.num_frames(features.shape[1])
        states = tuple(x[:, 1 : total + 1] for x in self.sentence_states(x, num_frames))
        if num_frames is None:
            num_frames = full_lengths(states[-1])
        return EncoderOutput(states[-1], num_frames, states)

    def sentence_states(self, projected: Tensor, lengths: Tensor | None) -> tuple[Tensor, ...]:
        """Projected frames (B, T, D) to the first layer's input and every layer's output, each
        (B, 1 + T, D) with the aggregator first."""
        return self.encoder(projected, lengths, prefix=self.cls_token)


class SentenceHead(nn.Module):
    """What the aggregator's output is compared through: three layers, a norm, class logits.

    Args:
        dim: D of the encoder.
        inner_dim: of the hidden layers.
        num_classes: of the logits; nobody has labelled them.
    """

    def __init__(self, dim: int, inner_dim: int, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, inner_dim),
            nn.GELU(),
            nn.Linear(inner_dim, inner_dim),
            nn.GELU(),
            nn.Linear(inner_dim, inner_dim),
            nn.LayerNorm(inner_dim),
            nn.Linear(inner_dim, num_classes),
        )

    def forward(self, aggregator: Tensor) -> Tensor:
        """(B, D) to logits (B, num_classes)."""
        return self.layers(aggregator)


def reinitialize_last_layers(encoder: HubertEncoder, count: int) -> None:
    """Fresh weights for parts of the last ``count`` layers, as SD-HuBERT's training starts.

    Query, key, output and feed-forward weights are drawn from Xavier's normal distribution, the
    feed-forward biases with a deviation of 1 / sqrt(size). Values, other biases and norms stay.
    """
    layers = list(encoder.encoder.layers)
    for layer in layers[len(layers) - count :]:
        assert isinstance(layer, Layer)
        attention, feed_forward = layer.attention, layer.feed_forward
        inner_linears = (feed_forward.intermediate_dense, feed_forward.output_dense)
        for linear in (attention.q_proj, attention.k_proj, attention.out_proj, *inner_linears):
            nn.init.xavier_normal_(linear.weight)
        for linear in inner_linears:
            nn.init.normal_(linear.bias, std=len(linear.bias) ** -0.5)
