"""HuBERT as an encoder: waveform to frames at 50 Hz.

Papers: arXiv 2106.07447 (HuBERT), 2310.10803 (SD-HuBERT), 2410.07168 (Sylber: the first 9 layers).
Names and numerics are those of ``transformers.HubertModel`` without stable layer norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ssl_audio.batch import EncoderOutput, valid_mask
from ssl_audio.checkpoints import load_strict
from ssl_audio.models import padding
from ssl_audio.models.encoder import Encoder
from ssl_audio.models.hubert import checkpoint
from ssl_audio.models.hubert.config import HubertConfig
from ssl_audio.models.hubert.conv import FeatureExtractor, FeatureProjection
from ssl_audio.models.hubert.recording import RecordingNorms, recording_norms
from ssl_audio.models.hubert.trunk import Trunk

NORMALIZE_EPS = 1e-7  # of Wav2Vec2FeatureExtractor
AGGREGATOR = "cls_token"  # of SD-HuBERT


class HubertEncoder(Encoder):
    """Convolutions, positional convolution and Transformer.

    ``hidden_states[0]`` is the first layer's input, ``hidden_states[i]`` the output of layer i;
    ``frames`` is the last one. Frame t covers samples 320 t .. 320 t + 399.

    Args:
        config: keys of ``HubertConfig``.

    Raises:
        ValueError: a config value that cannot be used, named.

    Example:
        >>> encoder = HubertEncoder(num_hidden_layers=9)
        >>> out = encoder(waveforms, lengths)  # (B, S) at 16 kHz
    """

    kind: ClassVar[str] = "hubert"

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self._config = parsed = HubertConfig(**config)
        self.embed_dim = parsed.hidden_size
        self.num_layers = parsed.num_hidden_layers
        self.conv_layers = parsed.conv_layers
        self.frame_rate = self.sample_rate / math.prod(parsed.conv_stride)
        self.masked_spec_embed = nn.Parameter(torch.empty(parsed.hidden_size).uniform_())
        self.feature_extractor = FeatureExtractor(parsed)
        self.feature_projection = FeatureProjection(parsed)
        self.encoder = Trunk(parsed)

    @property
    def config(self) -> dict[str, Any]:
        return self._config.to_dict()

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Tensors and config of ``transformers.HubertModel``, old or new weight-norm names; strict.

        Layers from ``config["num_hidden_layers"]`` on are left out (Sylber keeps 9 of 12). Files of
        models that were fine-tuned without masking have no mask embedding; it is zero then.

        Raises:
            ValueError: missing, unexpected or misshapen tensors, or another architecture.
        """
        encoder = cls(**HubertConfig.from_official(config).to_dict())
        tensors = checkpoint.first_layers(checkpoint.current_names(state_dict), encoder.num_layers)
        tensors.setdefault("masked_spec_embed", torch.zeros(encoder.embed_dim))
        load_strict(encoder, tensors, "the state dict")
        return encoder

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        config: Mapping[str, Any] | None = None,
        num_layers: int | None = None,
    ) -> Self:
        """A file of Sylber, SD-HuBERT or transformers, or the folder that has it.

        Args:
            path: plain state dict, Lightning checkpoint, ``{"ema"}``, ``{"config", "state_dict"}``,
                or safetensors.
            config: official config; by default ``config.json`` beside the file, or what the
                tensors tell.
            num_layers: layers to keep, all when None.

        Raises:
            CheckpointError: the file is missing, damaged or holds no HuBERT.
            ValueError: as ``from_state_dict``.
        """
        path = Path(path)
        if path.is_dir():
            names = ("model.safetensors", "pytorch_model.bin")
            path = next((path / name for name in names if (path / name).is_file()), path / names[0])
        tensors = checkpoint.encoder_tensors(checkpoint.read_file(path), path)
        config = config or checkpoint.stored_config(path)
        config = dict(config or checkpoint.config_from_tensors(tensors, path))
        if num_layers is not None:
            config["num_hidden_layers"] = num_layers
        return cls.from_state_dict(tensors, config)

    @classmethod
    def from_encoder(cls, encoder: HubertEncoder, **changes: Any) -> Self:
        """A copy that trains, with ``changes`` in its config.

        With a smaller ``num_hidden_layers`` the first layers are kept. SD-HuBERT's aggregator is
        left out, or drawn where only the copy has one.

        Raises:
            ValueError: tensors that do not fit the changed config.
        """
        copy = cls(**{**encoder.config, **changes})
        tensors = checkpoint.first_layers(encoder.state_dict(), copy.num_layers)
        own = copy.state_dict()
        if AGGREGATOR in own:
            tensors.setdefault(AGGREGATOR, own[AGGREGATOR])
        else:
            tensors.pop(AGGREGATOR, None)
        load_strict(copy, tensors, "the encoder")
        return copy

    def num_frames(self, num_samples: Any) -> Any:
        return padding.conv_frames(num_samples, self.conv_layers)

    def features(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The waveforms in float32, (B, S), each with zero mean and unit variance."""
        waveforms = waveforms.float()
        if (norms := self.feature_extractor.norms) is not None:
            waveforms = norms.scaled(waveforms, valid_mask(lengths, waveforms.shape[1]))
        elif self._config.normalize:
            waveforms = padding.normalized(waveforms, lengths, NORMALIZE_EPS)
        return waveforms, lengths

    def recording_norms(self, pieces: Iterable[Tensor]) -> RecordingNorms | None:
        first = self.feature_extractor.conv_layers[0].conv
        assert isinstance(first, nn.Conv1d)
        return recording_norms(pieces, first, NORMALIZE_EPS if self._config.normalize else None)

    @contextmanager
    def normalizing(self, norms: RecordingNorms | None) -> Iterator[None]:
        self.feature_extractor.norms = norms
        try:
            yield
        finally:
            self.feature_extractor.norms = None

    def forward_features(
        self,
        features: Tensor,
        lengths: Tensor | None = None,
        time_mask: Tensor | None = None,
    ) -> EncoderOutput:
        """Normalised waveforms (B, S) and valid samples (B,), all of S when None.

        Args:
            time_mask: (B, T) bool, frames whose projected features become the mask embedding.
        """
        x, num_frames = self.project(features, lengths)
        if time_mask is not None:
            x = self.masked(x, time_mask)
        states = self.encoder(x, num_frames)
        total = self.num_frames(features.shape[1])  # 0 where even one frame needed more samples
        states = tuple(state[:, :total] for state in states)
        if num_frames is None:
            num_frames = torch.full((len(features),), total, device=features.device)
        return EncoderOutput(states[-1], num_frames, states)

    def project(
        self, features: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Convolutions and projection: (B, S) and valid samples to (B, T, D) and valid frames.

        Without padding in the batch no lengths come back, and nothing has to be masked. There is
        always at least one frame, however short the clips.
        """
        x, num_frames = self.convolve(features, lengths)
        return self.feature_projection(x), num_frames

    def convolve(
        self, features: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The convolutions alone: (B, T, C), and valid frames as ``project`` gives them."""
        if lengths is not None and not _has_padding(lengths, features.shape[1]):
            lengths = None
        exact = lengths if self._config.padding == "exact" else None
        x = padding.padded_to(features, padding.receptive_field(self.conv_layers))
        x = self.feature_extractor(x, exact).transpose(1, 2)
        return x, None if lengths is None else self.num_frames(lengths)

    def masked(self, projected: Tensor, time_mask: Tensor) -> Tensor:
        """``projected`` (B, T, D) with the mask embedding where ``time_mask`` (B, T) is True."""
        embedding = self.masked_spec_embed.to(projected.dtype)
        return torch.where(time_mask[:, :, None], embedding, projected)


def _has_padding(lengths: Tensor, num_samples: int) -> bool:
    """Whether a clip is shorter than its row; on a GPU assumed, since looking would wait for it."""
    return lengths.is_cuda or bool((lengths < num_samples).any())
