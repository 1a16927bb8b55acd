"""wav2vec 2.0, HuBERT and WavLM as torchaudio builds them.

Axes: B clips, S samples, T frames, D channels.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from ssl_audio.batch import EncoderOutput, full_lengths, valid_mask
from ssl_audio.checkpoints import CheckpointError, downloading, load_strict, read_checkpoint
from ssl_audio.models import padding, wavlm_names
from ssl_audio.models.encoder import Encoder

LAYER_NORM_EPS = 1e-5  # of the waveform's normalisation, as in fairseq and torchaudio
MASKED_SCORE = -1e4  # its exponential is 0, yet a clip without a valid frame gives no NaN


class TorchaudioEncoder(Encoder):
    """A speech encoder of ``torchaudio.models``, padding-invariant.

    The modules and their weights are torchaudio's; only the order of calls is ours, because its own
    batched path has no mask for WavLM and lets padding into the group norm of the Base models.

    ``hidden_states[0]`` is the transformer's input (after the positional convolution),
    ``hidden_states[i]`` the output of layer i; SPEAR's speech teacher is ``hidden_states[21]`` of
    WAVLM_LARGE. ``frames`` is the last of them, after the final layer norm if the model has one.

    Args:
        architecture: "Wav2Vec2" (also HuBERT) or "WavLM".
        params: arguments of ``torchaudio.models.wav2vec2_model`` or ``wavlm_model``.
        normalize: whether the model expects each waveform with zero mean and unit variance.
    """

    kind = "torchaudio"

    def __init__(self, architecture: str, params: dict[str, Any], normalize: bool) -> None:
        from torchaudio import models

        super().__init__()
        factories = {"Wav2Vec2": models.wav2vec2_model, "WavLM": models.wavlm_model}
        if architecture not in factories:
            raise CheckpointError(
                f"unknown torchaudio architecture {architecture!r}; known: {', '.join(factories)}"
            )
        self.architecture, self.normalize = architecture, normalize
        self.params = {**params, "aux_num_out": None}  # no CTC head
        self.model = factories[architecture](**self.params)
        first = self.model.feature_extractor.conv_layers[0]
        if isinstance(first.layer_norm, nn.GroupNorm):
            first.layer_norm = padding.MaskedGroupNorm.replacing(first.layer_norm)
        self.conv_layers = params["extractor_conv_layer_config"]
        self.embed_dim = params["encoder_embed_dim"]
        self.num_layers = params["encoder_num_layers"]
        self.frame_rate = self.sample_rate / math.prod(stride for *_, stride in self.conv_layers)

    @classmethod
    def from_bundle(cls, name: str) -> Self:
        """Weights of ``torchaudio.pipelines.<name>``, downloaded once into torch.hub's cache.

        Raises:
            CheckpointError: no such bundle, no network, or a broken file in the cache.
        """
        from torchaudio import pipelines

        bundle = getattr(pipelines, name, None)
        if not isinstance(bundle, pipelines.Wav2Vec2Bundle):
            names = sorted(
                key for key, x in vars(pipelines).items() if isinstance(x, pipelines.Wav2Vec2Bundle)
            )
            raise CheckpointError(f"torchaudio has no bundle {name!r}; it has {', '.join(names)}")
        encoder = cls(bundle._model_type, dict(bundle._params), bundle._normalize_waveform)
        with downloading(f"torchaudio:{name}", Path(bundle._path).name):
            model = bundle.get_model(dl_kwargs={"weights_only": True, "map_location": "cpu"})
        model = getattr(model, "model", model)  # the bundle wraps models that normalise
        model.aux = None
        load_strict(encoder.model, model.state_dict(), f"torchaudio:{name}")
        return encoder

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> Self:
        """The WavLM authors' own file, ``{"cfg", "model"}`` (unilm/wavlm).

        Raises:
            CheckpointError: not such a file.
        """
        content = read_checkpoint(path)
        if "conv_feature_layers" not in content["cfg"]:
            raise CheckpointError(f"{path} is not a WavLM checkpoint; its cfg has no conv layers")
        encoder = cls(
            "WavLM", wavlm_names.params(content["cfg"]), bool(content["cfg"]["normalize"])
        )
        load_strict(encoder.model, wavlm_names.state_dict(content["model"]), path)
        return encoder

    @property
    def config(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture,
            "params": self.params,
            "normalize": self.normalize,
        }

    def num_frames(self, num_samples: Any) -> Any:
        return padding.conv_frames(num_samples, self.conv_layers)

    def features(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The waveforms in float32, (B, S), normalised where the model wants it."""
        waveforms = waveforms.float()
        if self.normalize:
            waveforms = padding.normalized(waveforms, lengths, LAYER_NORM_EPS)
        return waveforms, lengths

    def forward_features(self, features: Tensor, lengths: Tensor | None = None) -> EncoderOutput:
        """Waveforms (B, S) as ``features`` gives them, and their valid samples."""
        if lengths is None:
            lengths = full_lengths(features)
        x, num_frames = self._convolve(features, lengths)
        x = self.model.encoder.feature_projection(x)
        x = x * valid_mask(num_frames, x.shape[1])[:, :, None]
        total = self.num_frames(features.shape[1])  # 0 where even one frame needed more samples
        states = tuple(x[:, :total] for x in self._transform(x, num_frames))
        transformer = self.model.encoder.transformer
        frames = states[-1] if transformer.layer_norm_first else transformer.layer_norm(states[-1])
        return EncoderOutput(frames, num_frames, states)

    def _convolve(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        norm = self.model.feature_extractor.conv_layers[0].layer_norm
        if isinstance(norm, padding.MaskedGroupNorm):
            norm.lengths = padding.conv_frames(lengths, self.conv_layers[:1])
        waveforms = padding.padded_to(waveforms, padding.receptive_field(self.conv_layers))
        x, _ = self.model.feature_extractor(waveforms, None)
        return x, self.num_frames(lengths)

    def _transform(self, x: Tensor, lengths: Tensor) -> list[Tensor]:
        """Transformer input and every layer's output, (B, T, D) each."""
        transformer = self.model.encoder.transformer
        x = x + transformer.pos_conv_embed(x)
        if transformer.layer_norm_first:  # so torchaudio calls a norm before the first layer
            x = transformer.layer_norm(x)
        states = [transformer.dropout(x)]
        scores = (~valid_mask(lengths, x.shape[1])).to(x.dtype) * MASKED_SCORE
        if self.architecture == "WavLM":
            masks = {"key_padding_mask": scores}
        else:
            masks = {"attention_mask": scores[:, None, None].expand(-1, 1, x.shape[1], -1)}
        position_bias = None
        for layer in transformer.layers:
            x, position_bias = layer(states[-1], position_bias=position_bias, **masks)
            states.append(x)
        return states
