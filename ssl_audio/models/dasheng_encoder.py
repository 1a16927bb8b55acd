"""Dasheng through the package ``dasheng`` (Dinkel et al. 2024, arXiv 2406.06992).

Axes: B clips, S samples, T frames, F mel bins, D channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self
from urllib.parse import urlparse

import torch
from torch import Tensor

from ssl_audio.batch import EncoderOutput, full_lengths, valid_mask
from ssl_audio.checkpoints import CheckpointError, downloading, load_strict, read_checkpoint
from ssl_audio.models.encoder import Encoder

# sizes that the checkpoints' own configs leave out (dasheng/pretrained/pretrained.py)
SIZES = {
    "dasheng_base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "dasheng_06B": {"embed_dim": 1280, "depth": 32, "num_heads": 16},
    "dasheng_12B": {"embed_dim": 1536, "depth": 40, "num_heads": 24},
}


class DashengEncoder(Encoder):
    """Masked-autoencoder encoder for general audio at 25 Hz, padding-invariant.

    Clips longer than the model's window (10.08 s) are encoded window by window, as in the original.
    The mel front end runs clip by clip: its decibel floor is relative to the loudest value of
    whatever batch it is given. ``hidden_states[0]`` holds patches with positions, entry i the
    output of block i; ``frames`` is the last one after the final layer norm, the ordinary output,
    which SPEAR's audio teacher is.

    Args:
        options: arguments of ``dasheng.pretrained.pretrained.Dasheng``.

    Raises:
        CheckpointError: ``dasheng`` is not installed, or the options are of another layout.
    """

    kind = "dasheng"

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.model = _dasheng().Dasheng(**options)
        mel_bins, _ = self.model.patch_size
        if self.model.pooling == "token" or mel_bins != self.model.n_mels:
            raise CheckpointError("this Dasheng has several tokens per frame; one is supported")
        self.options = dict(options)
        self.embed_dim = self.model.embed_dim
        self.num_layers = len(self.model.blocks)
        self.hop = self.model.hop_size
        self.stride = self.model.patch_stride[1]
        self.frame_rate = self.sample_rate / (self.hop * self.stride)

    @classmethod
    def from_pretrained(cls, name: str) -> Self:
        """``dasheng_base``, ``dasheng_06B``, ``dasheng_12B`` (downloaded once), or a file.

        Raises:
            CheckpointError: another name, no network, or a broken file.
        """
        if name not in SIZES:
            return cls.from_checkpoint(name)
        url = _dasheng().PRETRAINED_CHECKPOINTS[name]
        with downloading(f"dasheng:{name}", Path(urlparse(url).path).name):
            content = torch.hub.load_state_dict_from_url(url, map_location="cpu", weights_only=True)
        return cls._from_content(content, SIZES[name], f"dasheng:{name}")

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> Self:
        """The authors' file, ``{"model", "config"}``.

        Raises:
            CheckpointError: not such a file.
        """
        return cls._from_content(read_checkpoint(path), {}, path)

    @classmethod
    def _from_content(cls, content: Any, sizes: dict[str, int], source: object) -> Self:
        if not isinstance(content, dict) or not {"model", "config"} <= content.keys():
            raise CheckpointError(f"{source} is not a Dasheng checkpoint (model, config)")
        encoder = cls({**content["config"], **sizes})
        load_strict(encoder.model, content["model"], source)
        return encoder

    @property
    def config(self) -> dict[str, Any]:
        return {"options": self.options}

    def num_frames(self, num_samples: Any) -> Any:
        return (num_samples // self.hop + 1) // self.stride

    def features(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) to normalised log-mel (B, T_in, F) at 100 Hz; zeros after a clip's end."""
        num_mel_frames = self.num_frames(lengths) * self.stride
        total = self.num_frames(waveforms.shape[1]) * self.stride
        mels = waveforms.new_zeros(len(waveforms), total, self.model.n_mels, dtype=torch.float32)
        with torch.autocast(waveforms.device.type, enabled=False):
            for row, num_samples, count in zip(
                range(len(waveforms)), lengths.tolist(), num_mel_frames.tolist(), strict=True
            ):
                if count:
                    clip = waveforms[row : row + 1, :num_samples].float()
                    mels[row, :count] = self.model.forward_to_spec(clip)[0, 0, :, :count].T
        return mels, num_mel_frames

    def forward_features(self, features: Tensor, lengths: Tensor | None = None) -> EncoderOutput:
        """Log-mel (B, T_in, F) and its valid frames."""
        if lengths is None:
            lengths = full_lengths(features)
        num_frames = lengths // self.stride
        if features.shape[1] < self.stride:
            empty = features.new_zeros(len(features), 0, self.embed_dim)
            return EncoderOutput(empty, num_frames, (empty,) * (self.num_layers + 1))
        patches = self.model.patch_embed(features.transpose(1, 2)[:, None])  # (B, D, 1, T)
        padded = ~valid_mask(num_frames, patches.shape[-1])
        window = self.model.target_length // self.stride
        windows = [
            self._encode_window(x, mask)
            for x, mask in zip(
                patches.split(window, dim=-1), padded.split(window, dim=-1), strict=True
            )
        ]
        states = tuple(torch.cat(parts, dim=1) for parts in zip(*windows, strict=True))
        return EncoderOutput(self.model.norm(states[-1]), num_frames, states)

    def _encode_window(self, patches: Tensor, padded: Tensor) -> list[Tensor]:
        """Patches (B, D, 1, T), T at most one window, to every layer's (B, T, D)."""
        model = self.model
        positions = model.time_pos_embed[..., : patches.shape[-1]] + model.freq_pos_embed
        states = [model.pos_drop((patches + positions).flatten(2).transpose(1, 2))]
        for block in model.blocks:
            states.append(block(states[-1], mask=padded))
        return states


def _dasheng() -> Any:
    try:
        from dasheng.pretrained import pretrained
    except ImportError as error:
        raise CheckpointError(
            f"this encoder needs the package dasheng ({error}): pip install 'ssl-audio[dasheng]'"
        ) from error
    return pretrained
