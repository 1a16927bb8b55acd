"""From visible patches to the codes of all patches (BEATs, arXiv 2212.09058, section 3.3.2).

Depth, placeholder and final norm are those of OpenBEATs (ESPnet ``espnet2/beats/encoder.py``); the
paper names neither depth nor width. Axes: B clips, P patches, V visible patches, C channels of the
encoder, D of the predictor, K codes, M chosen patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor, nn

from ssl_audio.checkpoints import load_strict
from ssl_audio.models.beats import Transformer, TransformerConfig
from ssl_audio.models.beats.checkpoint import our_tensors

PLACEHOLDERS = ("zero", "learned")
# OpenBEATs' names and ours.
OFFICIAL_NAMES = {
    "decoder_embed.": "embed.",
    "layers.": "transformer.layers.",
    "relative_attention_bias.": "transformer.relative_attention_bias.",
    "decoder_norm.": "norm.",
    "decoder_pred.": "predict.",
    "mask_token": "placeholder",
}


class LabelPredictor(nn.Module):
    """Visible patches are put back to their places, a Transformer fills in the others.

    Args:
        encoder_dim: C.
        num_codes: K.
        config: of the layers, D wide; DeepNorm takes its factors from their number.
        placeholder: what stands at the other places, "zero" (the paper) or "learned" (OpenBEATs).

    Raises:
        ValueError: another placeholder.
    """

    placeholder: Tensor

    def __init__(
        self, encoder_dim: int, num_codes: int, config: TransformerConfig, placeholder: str
    ) -> None:
        super().__init__()
        if placeholder not in PLACEHOLDERS:
            raise ValueError(
                f"task.placeholder={placeholder}: choose one of {', '.join(PLACEHOLDERS)}"
            )
        self.embed = nn.Linear(encoder_dim, config.dim)
        if placeholder == "learned":
            self.placeholder = nn.Parameter(0.02 * torch.randn(1, 1, config.dim))
        else:
            self.register_buffer("placeholder", torch.zeros(1, 1, config.dim))
        self.transformer = Transformer(config)
        self.norm = nn.LayerNorm(config.dim)
        self.predict = nn.Linear(config.dim, num_codes)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], config: TransformerConfig) -> Self:
        """OpenBEATs' ``decoder`` tensors; strict.

        Raises:
            ValueError: missing, unexpected or misshapen tensors.
        """
        tensors = {}
        for name, tensor in our_tensors(state_dict, "the label predictor").items():
            prefix = next((p for p in OFFICIAL_NAMES if name.startswith(p)), "")
            tensors[OFFICIAL_NAMES.get(prefix, "") + name.removeprefix(prefix)] = tensor
        encoder_dim = state_dict["decoder_embed.weight"].shape[1]
        predictor = cls(encoder_dim, len(state_dict["decoder_pred.bias"]), config, "learned")
        load_strict(predictor, tensors, "the label predictor")
        return predictor

    def forward(
        self, frames: Tensor, visible: Tensor, lengths: Tensor, chosen: Tensor | None = None
    ) -> Tensor:
        """Scores of every patch (B, P, K), or of those at ``chosen`` (M, K), float32.

        Args:
            frames: (B, V, C) of the encoder; a clip's visible patches in order, then anything.
            visible: (B, P) bool, which patches these are.
            lengths: (B,) valid patches.
            chosen: (M,) int64, indices into the flattened (B * P).
        """
        x = self.embed(frames)
        place = (visible.cumsum(1) - 1).clamp_min(0)
        x = x.gather(1, place[..., None].expand(-1, -1, x.shape[2]))
        x = torch.where(visible[..., None], x, self.placeholder.to(x.dtype))
        x = self.transformer(x, lengths)[-1]
        if chosen is not None:
            x = x.flatten(0, 1)[chosen]
        return self.predict(self.norm(x)).float()


def predictor_layers(encoder: TransformerConfig, dim: int, num_layers: int) -> TransformerConfig:
    """The encoder's kind of layers, ``num_layers`` of width ``dim``, none of them ever skipped."""
    return replace(encoder, dim=dim, num_layers=num_layers, layerdrop=0.0, gradient_decay=1.0)
