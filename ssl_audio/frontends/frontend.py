"""What every front end shares: the clock, float32 whatever the precision, padding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Self, overload

import torch
from torch import Tensor, nn

from ssl_audio.batch import SAMPLE_RATE_HZ, valid_mask


class FrontEnd(nn.Module, ABC):
    """Waveforms (B, S) at 16 kHz to features (B, T, num_features), always float32.

    A clip's frames depend on its valid samples only. Nothing is learned and nothing is saved: the
    constants are no part of the state dict, and follow the module to another device but never to
    half precision.

    Attributes:
        num_features: features per frame.
        hop_samples: distance of frames in samples.
        pad_value: fills frames after a clip's end.
    """

    def __init__(self, num_features: int, hop_samples: int, pad_value: float) -> None:
        super().__init__()
        self.num_features = num_features
        self.hop_samples = hop_samples
        self.pad_value = pad_value

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return SAMPLE_RATE_HZ / self.hop_samples

    @overload
    def num_frames(self, num_samples: int) -> int: ...
    @overload
    def num_frames(self, num_samples: Tensor) -> Tensor: ...
    def num_frames(self, num_samples: int | Tensor) -> int | Tensor:
        """Frames of a clip of ``num_samples``; elementwise for a tensor."""
        frames = self._frames_of(num_samples)
        return frames.clamp_min(0) if isinstance(frames, Tensor) else max(0, frames)

    @abstractmethod
    def _frames_of(self, num_samples: int | Tensor) -> int | Tensor:
        """The same, where a clip too short for a frame may give a negative number."""

    @abstractmethod
    def _compute(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, S) float32 with at least one frame to (B, T, num_features), freshly allocated."""

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Features of a batch.

        Args:
            waveforms: (B, S) mono samples at 16 kHz.
            lengths: (B,) valid samples of each clip; ``None`` means all S.

        Returns:
            (B, num_frames(S), num_features) float32, ``pad_value`` after each clip's last frame.

        Raises:
            ValueError: another shape.
        """
        if waveforms.ndim != 2 or (lengths is not None and lengths.shape != waveforms.shape[:1]):
            raise ValueError(
                f"waveforms {tuple(waveforms.shape)} and lengths "
                f"{None if lengths is None else tuple(lengths.shape)}: pass (B, S) and (B,)"
            )
        if len(waveforms) == 0 or self.num_frames(waveforms.shape[1]) == 0:
            num_frames = self.num_frames(waveforms.shape[1])
            return waveforms.new_zeros(
                len(waveforms), num_frames, self.num_features, dtype=torch.float32
            )
        if lengths is not None:
            lengths = lengths.to(waveforms.device)
        with torch.autocast(waveforms.device.type, enabled=False):
            features = self._compute(waveforms.float(), lengths)
        if lengths is None:
            return features
        valid = valid_mask(self.num_frames(lengths), features.shape[1])
        return features.masked_fill_(~valid[:, :, None], self.pad_value)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """``to``, ``cuda``, ``half``, ... : take the device from ``fn``, never the precision."""
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)
