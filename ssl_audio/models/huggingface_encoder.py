"""HuBERT, WavLM and wav2vec 2.0 from transformers.

Axes: B clips, S samples, T frames, D channels.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ssl_audio.batch import EncoderOutput, full_lengths, valid_mask
from ssl_audio.checkpoints import CheckpointError, load_strict
from ssl_audio.models import padding
from ssl_audio.models.encoder import Encoder

NORMALIZE_EPS = 1e-7  # of Wav2Vec2FeatureExtractor
MODEL_TYPES = ("hubert", "wavlm", "wav2vec2")
UNUSED_WHEN_FROZEN = {"masked_spec_embed"}  # fills masked spans in pre-training
# keys of config.json that change with the library or the download, not with the model
NOT_ARCHITECTURE = {
    *("_commit_hash", "_name_or_path", "architectures"),
    *("dtype", "torch_dtype", "transformers_version"),
}


class HuggingFaceEncoder(Encoder):
    """A speech encoder of transformers, padding-invariant.

    ``hidden_states`` are those of transformers 5: entry 0 is the transformer's input, entry i the
    output of layer i. ``frames`` is the last one, after the final layer norm if there is one.

    Args:
        model_config: the model's ``config.json`` as a dict, with ``model_type``.
        normalize: whether each waveform is brought to zero mean and unit variance first
            (``do_normalize`` of ``preprocessor_config.json``).

    Raises:
        CheckpointError: transformers is not installed, or the model is of another type.
    """

    kind = "huggingface"

    def __init__(self, model_config: dict[str, Any], normalize: bool) -> None:
        super().__init__()
        transformers = _transformers()
        self.model_config, self.normalize = dict(model_config), normalize
        options = dict(model_config)
        model_type = options.pop("model_type", None)
        if model_type not in MODEL_TYPES or options.get("add_adapter"):
            what = "an adapter" if model_type in MODEL_TYPES else f"model_type {model_type!r}"
            raise CheckpointError(f"{what} is not supported; known: {', '.join(MODEL_TYPES)}")
        config = transformers.AutoConfig.for_model(model_type, **options)
        self.model = transformers.AutoModel.from_config(config)
        first = self.model.feature_extractor.conv_layers[0]
        if isinstance(getattr(first, "layer_norm", None), nn.GroupNorm):
            first.layer_norm = padding.MaskedGroupNorm.replacing(first.layer_norm)
        self.conv_layers = list(
            zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
        )
        self.embed_dim = config.hidden_size
        self.num_layers = config.num_hidden_layers
        self.frame_rate = self.sample_rate / math.prod(config.conv_stride)

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """A local folder in transformers' layout, or ``ORG/NAME`` on the hub.

        Raises:
            CheckpointError: not found, broken, of another type, or without some weights.
        """
        transformers = _transformers()
        try:
            config, _ = transformers.PretrainedConfig.get_config_dict(name)
            encoder = cls({k: config[k] for k in config if k not in NOT_ARCHITECTURE}, False)
            encoder.normalize = _expects_normalized(name, config)
            model, loading = type(encoder.model).from_pretrained(
                name, dtype=torch.float32, output_loading_info=True
            )
        except CheckpointError as error:
            raise CheckpointError(f"hf:{name}: {error}") from error
        except Exception as error:  # transformers lets errors of every kind through
            reason = str(error).strip().partition("\n")[0]
            raise CheckpointError(f"hf:{name} cannot be loaded: {reason}") from error
        if missing := sorted(set(loading["missing_keys"]) - UNUSED_WHEN_FROZEN):
            raise CheckpointError(
                f"hf:{name} lacks {len(missing)} tensors of {type(model).__name__} "
                f"({', '.join(missing[:3])}); its weights belong to another architecture"
            )
        load_strict(encoder.model, model.state_dict(), f"hf:{name}")
        return encoder

    @property
    def config(self) -> dict[str, Any]:
        return {"model_config": self.model_config, "normalize": self.normalize}

    def num_frames(self, num_samples: Any) -> Any:
        return padding.conv_frames(num_samples, self.conv_layers)

    def features(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The waveforms in float32, (B, S), normalised where the model wants it."""
        waveforms = waveforms.float()
        if self.normalize:
            waveforms = padding.normalized(waveforms, lengths, NORMALIZE_EPS)
        return waveforms, lengths

    def forward_features(self, features: Tensor, lengths: Tensor | None = None) -> EncoderOutput:
        """Waveforms (B, S) as ``features`` gives them, and their valid samples."""
        if lengths is None:
            lengths = full_lengths(features)
        norm = getattr(self.model.feature_extractor.conv_layers[0], "layer_norm", None)
        if isinstance(norm, padding.MaskedGroupNorm):
            norm.lengths = padding.conv_frames(lengths, self.conv_layers[:1])
        total = self.num_frames(features.shape[1])
        # transformers wants a frame of every clip; those of too short clips are not counted below
        shortest = padding.receptive_field(self.conv_layers)
        features = padding.padded_to(features, shortest)
        mask = valid_mask(lengths.clamp_min(shortest), features.shape[1])
        out = self.model(features, attention_mask=mask.long(), output_hidden_states=True)
        states = tuple(x[:, :total] for x in out.hidden_states)
        return EncoderOutput(out.last_hidden_state[:, :total], self.num_frames(lengths), states)


def _expects_normalized(name: str | Path, config: dict[str, Any]) -> bool:
    """From ``preprocessor_config.json``; without one, layer-norm models expect it (fairseq)."""
    try:
        extractor = _transformers().Wav2Vec2FeatureExtractor.from_pretrained(name)
    except OSError:
        return config.get("feat_extract_norm") == "layer"
    return bool(extractor.do_normalize)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise CheckpointError(
            "this encoder needs transformers: pip install 'ssl-audio[hf]'"
        ) from error
    return transformers
