"""BEATs: log-mel patches to hidden states at 50 patches a second.

Paper: arXiv 2212.09058. Official code: microsoft/unilm, ``beats``.

Axes: B clips, S samples, T feature frames, P patches, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_audio.batch import EncoderOutput, full_lengths, valid_mask
from ssl_audio.checkpoints import load_strict
from ssl_audio.frontends.kaldi import FRAME_LENGTH, FRAME_SHIFT, KaldiFbank
from ssl_audio.models.beats.checkpoint import naming, official_tensors, our_tensors, read_release
from ssl_audio.models.beats.config import NUM_MEL_BINS, BeatsConfig
from ssl_audio.models.beats.transformer import PositionalTransformer
from ssl_audio.models.encoder import Encoder
from ssl_audio.models.padding import padded_to

FEATURE_RATE_HZ = 100.0
INT16_SCALE = 2.0**15


class BeatsEncoder(Encoder):
    """Patches of 16 frames x 16 mel bins through a Transformer with gated relative positions.

    The sequence is the grid of patches, time slow and frequency fast: patch 8 t + f covers 160 ms
    from 0.16 t seconds, mel bins 16 f to 16 f + 15; ``time_rows`` gives the grid back. Only patches
    whose every sample lies before a clip's end are valid. ``hidden_states[0]`` is the first layer's
    input, with positions, entry i the output of layer i.

    Masked training calls ``patchify``, drops patches and calls ``encode_patches``.

    Args:
        config: keys of ``BeatsConfig``, the official names.

    Raises:
        ValueError: a config key or value that cannot be used, named.

    Example:
        >>> encoder = BeatsEncoder(encoder_layers=3, encoder_embed_dim=192)
        >>> out = encoder(waveforms, lengths)  # (B, S) at 16 kHz
    """

    kind: ClassVar[str] = "beats"

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.settings = settings = BeatsConfig.parse(config)
        patch_size, self.embed_dim = settings.input_patch_size, settings.encoder_embed_dim
        self.num_layers = settings.encoder_layers
        self.patches_per_row = NUM_MEL_BINS // patch_size
        self.frame_rate = FEATURE_RATE_HZ / patch_size * self.patches_per_row
        self.fbank = KaldiFbank(NUM_MEL_BINS, high_freq_hz=0.0, snip_edges=True)
        self.patch_embedding = nn.Conv2d(
            1, settings.embed_dim, patch_size, patch_size, bias=settings.conv_bias
        )
        self.layer_norm = nn.LayerNorm(settings.embed_dim)
        self.post_extract_proj: nn.Linear | None = None
        if settings.embed_dim != self.embed_dim:
            self.post_extract_proj = nn.Linear(settings.embed_dim, self.embed_dim)
        self.encoder = PositionalTransformer(
            settings.transformer(), settings.conv_pos, settings.conv_pos_groups
        )
        self.predictor: nn.Linear | None = None
        if settings.finetuned_model:
            self.predictor = nn.Linear(self.embed_dim, settings.predictor_class)

    @property
    def config(self) -> dict[str, Any]:
        return self.settings.to_dict()

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Official tensors and ``cfg``; strict.

        Raises:
            ValueError: missing, unexpected or misshapen tensors, or a config that cannot be used.
        """
        return cls._from_official(state_dict, config, "the state dict")

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> Self:
        """An official file, ``{"cfg", "model"}``, of a pre-trained or fine-tuned model.

        Raises:
            CheckpointError: not such a file.
        """
        tensors, config = read_release(path)
        with naming(path):
            return cls._from_official(tensors, config, path)

    @classmethod
    def _from_official(
        cls, state_dict: Mapping[str, Tensor], config: Mapping[str, Any], source: object
    ) -> Self:
        encoder = cls(**BeatsConfig.parse_official(config).to_dict())
        load_strict(encoder, our_tensors(state_dict, source), source)
        return encoder

    def official_state_dict(self) -> dict[str, Tensor]:
        """The weights under the names of the released files, for other BEATs code."""
        return official_tensors(self.state_dict(), self.num_layers)

    def num_frames(self, num_samples: Any) -> Any:
        return self._num_patches(self.fbank.num_frames(num_samples))

    def features(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) to normalised log-mel (B, T, 128) at 100 Hz, at least one patch of frames."""
        patch_samples = FRAME_LENGTH + FRAME_SHIFT * (self.settings.input_patch_size - 1)
        waveforms = padded_to(waveforms.float(), patch_samples) * INT16_SCALE
        if self.settings.padding == "exact":
            return self.normalize(self.fbank(waveforms, lengths)), self.fbank.num_frames(lengths)
        features = self.normalize(self.fbank(waveforms))
        return features, folded(lengths, waveforms.shape[1], features.shape[1])

    def normalize(self, fbank: Tensor) -> Tensor:
        """Log-mel energies of samples scaled to int16 to features; the released constants make
        AudioSet's standard deviation 0.5."""
        return (fbank - self.settings.fbank_mean) / (2 * self.settings.fbank_std)

    def forward_features(self, features: Tensor, lengths: Tensor | None = None) -> EncoderOutput:
        """Normalised log-mel (B, T, 128) and valid frames (B,), all when None."""
        return self.encode_patches(*self.patchify(features, lengths))

    def patchify(self, features: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Projected patches (B, P, C), without positions, and how many are valid (B,).

        Args:
            features: (B, T, 128) normalised log-mel; fewer than 16 frames are padded to a patch.
            lengths: (B,) valid frames, all when None.
        """
        lengths = full_lengths(features) if lengths is None else lengths
        patch_size = self.settings.input_patch_size
        missing = max(0, patch_size - features.shape[1])
        x = functional.pad(features, (0, 0, 0, missing)).to(self.patch_embedding.weight.dtype)
        if self.settings.padding == "exact":
            num_patches = self._num_patches(lengths)
        else:
            num_patches = folded(lengths, x.shape[1], self._num_patches(x.shape[1]))
        x = self.patch_embedding(x[:, None]).flatten(2).mT
        x = self.layer_norm(x)
        if self.post_extract_proj is not None:
            x = self.post_extract_proj(x)
        return functional.dropout(x, self.settings.dropout_input, self.training), num_patches

    def encode_patches(
        self,
        patches: Tensor,
        lengths: Tensor | None = None,
        positions: Tensor | None = None,
        num_positions: int | None = None,
    ) -> EncoderOutput:
        """Body: projected patches to the output.

        Args:
            patches: (B, P, C), all patches of the clips or a part of them.
            lengths: (B,) valid patches, the first of each row; all when None.
            positions: (B, P) int64, where in its clip each patch stands, anything for padding. With
                None the patches are neighbours, 0 .. P - 1.
            num_positions: patches of the longest clip, needed with ``positions``.
        """
        if positions is not None:
            assert num_positions is not None, "positions need num_positions"
            positions = positions.clamp_min(0)
        x = self.encoder.embed(patches, lengths, positions, num_positions or 0)
        states = tuple(self.encoder(x, lengths, positions))
        lengths = full_lengths(patches) if lengths is None else lengths
        return EncoderOutput(self.encoder.output(states[-1]), lengths, states)

    def time_rows(self, frames: Tensor) -> Tensor:
        """(B, P, C) patches to (B, P / 8, 8, C): one row per 160 ms, by rising frequency."""
        return frames.unflatten(1, (-1, self.patches_per_row))

    def logits(self, out: EncoderOutput) -> Tensor:
        """(B, predictor_class) scores of a fine-tuned model: the mean over valid patches.

        Raises:
            ValueError: the model is not a fine-tuned one.
        """
        if self.predictor is None:
            raise ValueError("this BEATs has no classes: load a fine-tuned one (finetuned_model)")
        x = functional.dropout(out.frames, self.settings.predictor_dropout, self.training)
        scores = self.predictor(x)
        valid = valid_mask(out.lengths, scores.shape[1])[:, :, None]
        return scores.masked_fill(~valid, 0.0).sum(1) / out.lengths.clamp_min(1)[:, None]

    def probabilities(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, S) to independent probabilities (B, predictor_class), in the order of ``labels``.

        Raises:
            ValueError: the model is not a fine-tuned one.
        """
        return self.logits(self(waveforms, lengths)).sigmoid()

    def layer_of(self, parameter_name: str) -> int:
        """Depth of a parameter, for learning rates by layer.

        0 below the layers, i for the i-th layer from 1, ``num_layers + 1`` for the head, the final
        norm and the position table, which every layer uses. A factor of
        ``decay ** max(0, num_layers - depth)`` is what ``layer_wise_gradient_decay_ratio`` does to
        the gradients of the layers.
        """
        if parameter_name.startswith("encoder.layers."):
            return int(parameter_name.split(".")[2]) + 1
        is_final_norm = self.settings.layer_norm_first and parameter_name.startswith(
            "encoder.layer_norm."
        )
        if is_final_norm or parameter_name.startswith(
            ("predictor.", "encoder.relative_attention_bias.")
        ):
            return self.num_layers + 1
        return 0

    def _num_patches(self, num_frames: Any) -> Any:
        return num_frames // self.settings.input_patch_size * self.patches_per_row


def folded(lengths: Tensor, total: int, num_slots: int) -> Tensor:
    """Valid slots when ``total`` entries, the first ``lengths`` valid, fold into ``num_slots``.

    The official folding: slots of floor(total / num_slots) entries, the rest cut off, a slot valid
    if one of its entries is.

    Raises:
        ValueError: more slots than entries.
    """
    width = total // num_slots
    if width == 0:
        if bool((lengths >= total).all()):
            return torch.full_like(lengths, num_slots)
        raise ValueError(
            f"padding='reference' cannot fold a mask of {total} into {num_slots} patches, as the "
            "original cannot: use padding='exact'"
        )
    return ((lengths + width - 1) // width).clamp_max(num_slots)
