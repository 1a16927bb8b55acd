"""Zipformer, SPEAR's student: log-mel features to frames at 50 (or 25) Hz.

Papers: arXiv 2310.11230 (Zipformer), 2510.25955 (SPEAR). Official code: k2-fsa/icefall,
``egs/librispeech/ASR/zipformer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ssl_audio.batch import EncoderOutput, full_lengths
from ssl_audio.checkpoints import load_strict
from ssl_audio.frontends.kaldi import KaldiFbank
from ssl_audio.models.encoder import Encoder
from ssl_audio.models.zipformer.checkpoint import (
    encoder_tensors,
    infer_config,
    read_release,
)
from ssl_audio.models.zipformer.config import ZipformerConfig
from ssl_audio.models.zipformer.embed import CONTEXT, ConvEmbed, embedded_frames
from ssl_audio.models.zipformer.schedules import Scheduled
from ssl_audio.models.zipformer.trunk import ZipformerTrunk
from ssl_audio.models.zipformer.whiten import Whiten

FEATURE_RATE_HZ = 100.0


class Zipformer(Encoder):
    """Convolutional embedding, then stacks of layers at different frame rates.

    Output: ``frames`` (B, T, D), 50 Hz over ``output_downsampling_factor``; ``hidden_states`` at
    50 Hz: the embedding's output and every layer's, (B, T, width of the stack), not normalised.

    Args:
        config: keys of ``ZipformerConfig``, the official names and forms.

    Raises:
        ValueError: a config key or value that cannot be used, named.

    Example:
        >>> encoder = Zipformer(encoder_dim=128, feedforward_dim=384, encoder_unmasked_dim=96)
        >>> out = encoder(waveforms, lengths)  # (B, S) at 16 kHz
    """

    kind: ClassVar[str] = "zipformer"

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self._config = parsed = ZipformerConfig.parse(config)
        self.embed_dim = max(parsed.encoder_dim)
        self.num_layers = sum(parsed.num_encoder_layers)
        self.frame_rate = FEATURE_RATE_HZ / 2 / parsed.output_downsampling_factor
        self.encoder_embed: ConvEmbed | None = None
        self.fbank: KaldiFbank | None = None
        if parsed.num_mel_bins:
            self.encoder_embed = ConvEmbed(
                parsed.num_mel_bins, parsed.embed_channels, parsed.encoder_dim[0]
            )
            self.fbank = KaldiFbank(parsed.num_mel_bins)
        self.encoder = ZipformerTrunk(parsed)
        for module in self._scheduled():
            module.regularize = parsed.regularize

    @property
    def config(self) -> dict[str, Any]:
        return self._config.to_dict()

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Official tensors (``encoder_embed.*``, ``encoder.*``) and config; strict.

        Leading ``model.`` and ``module.``, the mask embedding and the heads of training checkpoints
        are dropped. Without ``encoder_embed.*`` the encoder takes embedded frames as features.

        Raises:
            ValueError: missing, unexpected or misshapen tensors, or a config that cannot be used.
        """
        tensors = encoder_tensors(state_dict)
        encoder = cls(**infer_config(tensors, config))
        load_strict(encoder, tensors, "the state dict")
        return encoder

    @classmethod
    def from_checkpoint(cls, path: str | Path, config: Mapping[str, Any] | None = None) -> Self:
        """A released folder (``config.json``, ``model.safetensors``) or a training ``.pt`` file.

        A ``.pt`` file has no config; by default it comes from the file's tensors.
        """
        tensors, stored = read_release(Path(path))
        return cls.from_state_dict(tensors, config if config is not None else stored)

    def num_frames(self, num_samples: Any) -> Any:
        if self.fbank is None:
            raise ValueError("this Zipformer has no front end (num_mel_bins=0)")
        return self._output_frames(embedded_frames(self.fbank.num_frames(num_samples)))

    def features(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Kaldi log-mel (B, T, num_mel_bins) at 100 Hz; padding is log(1e-10)."""
        if self.fbank is None:
            raise ValueError("this Zipformer has no front end (num_mel_bins=0)")
        return self.fbank(waveforms, lengths), self.fbank.num_frames(lengths)

    def forward_features(self, features: Tensor, lengths: Tensor | None = None) -> EncoderOutput:
        """(B, T, num_mel_bins) at 100 Hz and valid frames (B,), all when None.

        Raises:
            ValueError: not a single frame comes out (less than 9 feature frames, 0.09 s).
        """
        masked = lengths is not None  # without lengths there is nothing to hide
        if lengths is None:
            lengths = full_lengths(features)
        x = features
        if self.encoder_embed is not None:
            if features.shape[1] < CONTEXT:
                raise ValueError(
                    f"{features.shape[1]} feature frames are too short for Zipformer: "
                    f"give clips of at least {CONTEXT} frames (0.1 s)"
                )
            lengths = embedded_frames(lengths)
            exact = masked and self._config.padding == "exact"
            x = self.encoder_embed(features, lengths if exact else None)
        frames, states = self.encoder(x, lengths if masked else None)
        return EncoderOutput(frames, self._output_frames(lengths), (x, *states))

    def set_batch_count(self, batch_count: float) -> None:
        """Moves every schedule to ``batch_count`` batches, and digests what Whiten last saw.

        Call it before each training step, on every rank: ranks agree on Whiten's probabilities.
        """
        for module in self._scheduled():
            module.batch_count = float(batch_count)
        self._adapt_whitening()

    def training_state(self) -> dict[str, Any]:
        """What training changes outside the state dict; small, and safe to save with
        ``weights_only`` loading. Equal on every rank after ``set_batch_count``.
        """
        return {
            "batch_count": self.encoder.batch_count,
            "whiten_probs": [module.prob for module in self._whitens()],
            "whiten_looks": [_code(module.last_look) for module in self._whitens()],
        }

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restores ``training_state``.

        Raises:
            ValueError: the state belongs to another architecture.
        """
        whitens = self._whitens()
        if len(state["whiten_probs"]) != len(whitens):
            raise ValueError(
                f"training state has {len(state['whiten_probs'])} Whiten modules, this Zipformer "
                f"{len(whitens)}: resume with the config of the interrupted run"
            )
        for module in self._scheduled():
            module.batch_count = float(state["batch_count"])
        looks = zip(whitens, state["whiten_probs"], state["whiten_looks"], strict=True)
        for whiten, prob, look in looks:
            whiten.prob = float(prob)
            whiten.last_look = None if look < 0 else torch.tensor(look == 1)

    def _output_frames(self, frames: Any) -> Any:
        factor = self._config.output_downsampling_factor
        return (frames + factor - 1) // factor

    def _scheduled(self) -> list[Scheduled]:
        return [module for module in self.modules() if isinstance(module, Scheduled)]

    def _whitens(self) -> list[Whiten]:
        return [module for module in self.modules() if isinstance(module, Whiten)]

    def _adapt_whitening(self) -> None:
        """Turns the last looks into probabilities, with one transfer from the device."""
        whitens = self._whitens()
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not distributed and all(module.last_look is None for module in whitens):
            return
        device = next(self.parameters()).device
        unseen = torch.tensor(-1, dtype=torch.int8, device=device)
        looks = torch.stack(
            [
                unseen if module.last_look is None else module.last_look.to(device, torch.int8)
                for module in whitens
            ]
        )
        if distributed:
            torch.distributed.all_reduce(looks, op=torch.distributed.ReduceOp.MAX)
        for module, look in zip(whitens, looks.tolist(), strict=True):
            if look >= 0:
                module.adapt(violated=look == 1)


def _code(look: Tensor | None) -> int:
    return -1 if look is None else int(look.item())
