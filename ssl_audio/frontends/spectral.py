"""Log-energy front ends on nnAudio: constant-Q and mel spectrograms, any hop, on any device.

Frame t is centred on sample ``t * hop_samples`` and sees zeros beyond the clip, so the frames of a
padded clip are those of the clip alone.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from ssl_audio.batch import SAMPLE_RATE_HZ, valid_mask
from ssl_audio.frontends.frontend import FrontEnd

ENERGY_FLOOR = 1e-10


class _NnAudioFrontEnd(FrontEnd):
    """(B, S) to log energies (B, S // hop + 1, F) through an nnAudio layer."""

    def __init__(self, transform: Any, num_features: int, hop_samples: int) -> None:
        super().__init__(num_features, hop_samples, pad_value=math.log(ENERGY_FLOOR))
        self.transform = transform
        for layer in transform.modules():  # kernels follow from the arguments: do not save them
            for name, kernel in list(layer.named_buffers(recurse=False)):
                layer.register_buffer(name, kernel, persistent=False)
        transform.requires_grad_(False)

    def _frames_of(self, num_samples: int | Tensor) -> int | Tensor:
        frames = num_samples // self.hop_samples + 1
        if isinstance(num_samples, Tensor):
            return torch.where(num_samples > 0, frames, 0)
        return frames if num_samples > 0 else 0

    def _compute(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is not None:  # a window near the end reaches past it
            valid = valid_mask(lengths, waveforms.shape[1])
            waveforms = waveforms.masked_fill(~valid, 0.0)
        return self._energies(waveforms).transpose(1, 2).clamp_min(ENERGY_FLOOR).log()

    @abstractmethod
    def _energies(self, waveforms: Tensor) -> Tensor:
        """(B, F, T), as nnAudio orders axes; from complex values: a magnitude has no slope at 0."""


class CqtSpectrogram(_NnAudioFrontEnd):
    """Log energy of a constant-Q transform: (B, S) at 16 kHz to (B, S // hop + 1, num_bins).

    Bin b lies at ``low_freq_hz * 2**(b / bins_per_octave)``. The lowest bins have windows of half a
    second: their frames are smooth in time. Constant-Q transform: Brown and Puckette 1992, as
    ``nnAudio.features.CQT1992v2``.

    Args:
        hop_samples: distance of frames.
        low_freq_hz: centre of bin 0; the default is the note C1.
        num_bins: F.
        bins_per_octave: 12 gives semitones.

    Raises:
        ValueError: the highest bin lies above 8 kHz.
    """

    def __init__(
        self,
        hop_samples: int = 640,
        low_freq_hz: float = 32.703,
        num_bins: int = 84,
        bins_per_octave: int = 12,
    ) -> None:
        from nnAudio.features import CQT1992v2

        highest = low_freq_hz * 2 ** ((num_bins - 1) / bins_per_octave)
        if not 0 < low_freq_hz <= highest <= SAMPLE_RATE_HZ / 2:
            raise ValueError(
                f"{num_bins} bins from {low_freq_hz} Hz, {bins_per_octave} an octave, end at "
                f"{highest:.0f} Hz: the highest may be {SAMPLE_RATE_HZ // 2} Hz, use fewer"
            )
        with torch.device("cpu"):
            transform = CQT1992v2(
                sr=SAMPLE_RATE_HZ,
                hop_length=hop_samples,
                fmin=low_freq_hz,
                n_bins=num_bins,
                bins_per_octave=bins_per_octave,
                pad_mode="constant",
                verbose=False,
            )
        super().__init__(transform, num_bins, hop_samples)

    def _energies(self, waveforms: Tensor) -> Tensor:
        parts: Tensor = self.transform(waveforms, output_format="Complex")  # (B, F, T, 2)
        return parts.square().sum(-1)


class MelSpectrogram(_NnAudioFrontEnd):
    """Log mel energies with Slaney filters: (B, S) at 16 kHz to (B, S // hop + 1, num_mel_bins).

    No pre-emphasis, Hann window; differs from ``KaldiFbank`` by more than a constant. As
    ``nnAudio.features.MelSpectrogram``.

    Args:
        num_mel_bins: F.
        hop_samples: distance of frames.
        window_samples: window, and length of the Fourier transform.
        low_freq_hz: lower edge of the first filter.
        high_freq_hz: upper edge of the last.

    Raises:
        ValueError: band edges not within 0 <= low < high <= 8000 Hz.
    """

    def __init__(
        self,
        num_mel_bins: int = 80,
        hop_samples: int = 160,
        window_samples: int = 512,
        low_freq_hz: float = 20.0,
        high_freq_hz: float = 7600.0,
    ) -> None:
        from nnAudio.features import MelSpectrogram as NnAudioMel

        if not 0 <= low_freq_hz < high_freq_hz <= SAMPLE_RATE_HZ / 2:
            raise ValueError(
                f"mel bins from {low_freq_hz} to {high_freq_hz} Hz: use "
                f"0 <= low_freq_hz < high_freq_hz <= {SAMPLE_RATE_HZ // 2}"
            )
        with torch.device("cpu"):
            transform = NnAudioMel(
                sr=SAMPLE_RATE_HZ,
                n_fft=window_samples,
                n_mels=num_mel_bins,
                hop_length=hop_samples,
                fmin=low_freq_hz,
                fmax=high_freq_hz,
                pad_mode="constant",
                verbose=False,
            )
        super().__init__(transform, num_mel_bins, hop_samples)

    def _energies(self, waveforms: Tensor) -> Tensor:
        parts: Tensor = self.transform.stft(waveforms, output_format="Complex")
        energies: Tensor = self.transform.mel_basis @ parts.square().sum(-1)
        return energies
