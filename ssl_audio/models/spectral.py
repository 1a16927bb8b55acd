"""Teachers without weights: cepstra for speech, log spectra with context for general audio.

They are the first targets of HuBERT (MFCC with deltas, Hsu et al. 2021, section IV-B) and their
counterpart for sounds. Axes: B clips, S samples, T frames, F bins, C cepstra, D channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ssl_audio.batch import EncoderOutput, full_lengths, valid_mask
from ssl_audio.frontends import CqtSpectrogram, KaldiFbank
from ssl_audio.models.encoder import Encoder

DYNAMIC_RANGE = 16.0  # nats of power, 70 dB: what is weaker than the clip's peak by more is silence
LIFTER = 22  # Kaldi's default: cepstra of about equal spread
DELTA_REACH = 2  # frames to each side, as in HTK and Kaldi


class MfccEncoder(Encoder):
    """Mel cepstra, their deltas and accelerations at 50 Hz, with neighbours in time.

    Cepstra of a 100 Hz filterbank, by default relative to the clip's peak so that its level does
    not matter; deltas over +-20 ms; pairs of frames averaged; frames at ``context`` stacked, the
    clip's first and last repeated beyond its ends. D = 3 * num_cepstra * len(context).

    Args:
        num_mel_bins: F.
        num_cepstra: C, with the zeroth.
        context: offsets in 20 ms frames.
        relative: take energies relative to the clip's peak. Without it a frame's cepstra depend on
            its neighbourhood alone, which makes them easier targets.
    """

    kind = "mfcc"
    num_layers = 0
    frame_rate = 50.0
    lifted_dct: Tensor

    def __init__(
        self,
        num_mel_bins: int = 40,
        num_cepstra: int = 20,
        context: Sequence[int] = (-3, 0, 3),
        relative: bool = True,
    ) -> None:
        super().__init__()
        if not 0 < num_cepstra <= num_mel_bins:
            raise ValueError(f"num_cepstra is {num_cepstra}; use 1 to {num_mel_bins}, the mel bins")
        self.fbank = KaldiFbank(num_mel_bins)
        self.num_cepstra = num_cepstra
        self.context = tuple(context)
        self.relative = relative
        self.embed_dim = 3 * num_cepstra * len(self.context)
        self.register_buffer("lifted_dct", lifted_dct(num_mel_bins, num_cepstra), persistent=False)

    @property
    def config(self) -> dict[str, Any]:
        return {
            "num_mel_bins": self.fbank.num_features,
            "num_cepstra": self.num_cepstra,
            "context": list(self.context),
            "relative": self.relative,
        }

    def num_frames(self, num_samples: Any) -> Any:
        return self.fbank.num_frames(num_samples) // 2

    def features(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel energies (B, T_in, F) at 100 Hz."""
        return self.fbank(waveforms, lengths), self.fbank.num_frames(lengths)

    def forward_features(self, features: Tensor, lengths: Tensor | None = None) -> EncoderOutput:
        """Log-mel energies (B, T_in, F) and their valid frames."""
        if lengths is None:
            lengths = full_lengths(features)
        with torch.autocast(features.device.type, enabled=False):
            energies = features.float()
            if self.relative:
                energies = below_peak(energies, lengths)
            cepstra = energies @ self.lifted_dct.float()
            slopes = deltas(cepstra, lengths)
            x = torch.cat([cepstra, slopes, deltas(slopes, lengths)], dim=-1)
            return stacked(averaged(x, 2), lengths // 2, self.context)


class LogSpectrumEncoder(Encoder):
    """Log energies of a mel filterbank and a constant-Q transform at 25 Hz, with neighbours.

    Mel bins tell broad timbre up to 7.6 kHz, constant-Q bins pitch in semitones. Energies are
    averaged over 40 ms, by default relative to the clip's peak, and frames at ``context`` stacked,
    the clip's first and last repeated beyond its ends. D = (num_mel_bins + num_cqt_bins) *
    len(context).

    Args:
        num_mel_bins: mel bins from 20 Hz to 7.6 kHz.
        num_cqt_bins: semitones from ``low_freq_hz`` on; 0 leaves the transform out.
        low_freq_hz: centre of the lowest semitone; the default is the note C2.
        context: offsets in 40 ms frames.
        relative: take energies relative to the clip's peak.
    """

    kind = "log_spectrum"
    num_layers = 0
    frame_rate = 25.0

    def __init__(
        self,
        num_mel_bins: int = 64,
        num_cqt_bins: int = 72,
        low_freq_hz: float = 65.406,
        context: Sequence[int] = (-3, 0, 3),
        relative: bool = True,
    ) -> None:
        super().__init__()
        self.fbank = KaldiFbank(num_mel_bins)
        self.cqt = (
            CqtSpectrogram(hop_samples=320, low_freq_hz=low_freq_hz, num_bins=num_cqt_bins)
            if num_cqt_bins
            else None
        )
        self.num_cqt_bins, self.low_freq_hz = num_cqt_bins, low_freq_hz
        self.context = tuple(context)
        self.relative = relative
        self.embed_dim = (num_mel_bins + num_cqt_bins) * len(self.context)

    @property
    def config(self) -> dict[str, Any]:
        return {
            "num_mel_bins": self.fbank.num_features,
            "num_cqt_bins": self.num_cqt_bins,
            "low_freq_hz": self.low_freq_hz,
            "context": list(self.context),
            "relative": self.relative,
        }

    def num_frames(self, num_samples: Any) -> Any:
        return self.fbank.num_frames(num_samples) // 4

    def features(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log energies (B, T, F) at 25 Hz, mel bins first."""
        mel = self.fbank(waveforms, lengths)
        if self.relative:
            mel = below_peak(mel, self.fbank.num_frames(lengths))
        spectra = [averaged(mel, 4)]
        if self.cqt is not None:
            cqt = self.cqt(waveforms, lengths)  # 50 Hz; at least two frames for each of ours
            if self.relative:
                cqt = below_peak(cqt, self.cqt.num_frames(lengths))
            spectra.append(averaged(cqt[:, : 2 * spectra[0].shape[1]], 2))
        return torch.cat(spectra, dim=-1), self.num_frames(lengths)

    def forward_features(self, features: Tensor, lengths: Tensor | None = None) -> EncoderOutput:
        """Log energies (B, T, F) and their valid frames."""
        if lengths is None:
            lengths = full_lengths(features)
        return stacked(features, lengths, self.context)


def lifted_dct(num_mel_bins: int, num_cepstra: int) -> Tensor:
    """(F, C) orthonormal DCT-II with Kaldi's lifter."""
    order = torch.arange(num_cepstra)
    angle = math.pi / num_mel_bins * (torch.arange(num_mel_bins) + 0.5)
    dct = torch.cos(angle[:, None] * order) * math.sqrt(2.0 / num_mel_bins)
    dct[:, 0] /= math.sqrt(2.0)
    return dct * (1.0 + LIFTER / 2 * torch.sin(math.pi / LIFTER * order))


def below_peak(log_energies: Tensor, lengths: Tensor) -> Tensor:
    """Log energies (B, T, F) relative to each clip's largest, at least -DYNAMIC_RANGE."""
    valid = valid_mask(lengths, log_energies.shape[1])[:, :, None]
    peak = torch.where(valid, log_energies, -torch.inf).flatten(1)
    if peak.shape[1] == 0:
        return log_energies
    peak = peak.amax(dim=1)[:, None, None]
    return (log_energies - peak).clamp(-DYNAMIC_RANGE, 0.0)


def deltas(x: Tensor, lengths: Tensor) -> Tensor:
    """Slope per frame of a straight line through 2 * DELTA_REACH + 1 frames, (B, T, C)."""
    reach = range(1, DELTA_REACH + 1)
    slopes = [n * (neighbour(x, lengths, n) - neighbour(x, lengths, -n)) for n in reach]
    return torch.stack(slopes).sum(0) / (2 * sum(n * n for n in reach))


def neighbour(x: Tensor, lengths: Tensor, offset: int) -> Tensor:
    """Frame t + offset at t, (B, T, C); each clip's first and last frame repeated beyond it."""
    frame = torch.arange(x.shape[1], device=x.device) + offset
    frame = torch.minimum(frame.clamp_min(0), (lengths[:, None] - 1).clamp_min(0))
    return x.gather(1, frame[:, :, None].expand(-1, -1, x.shape[2]))


def averaged(x: Tensor, factor: int) -> Tensor:
    """Means of ``factor`` consecutive frames, (B, T // factor, C); a remainder is dropped."""
    num_frames = x.shape[1] // factor
    return x[:, : num_frames * factor].unflatten(1, (num_frames, factor)).mean(2)


def stacked(x: Tensor, lengths: Tensor, context: Sequence[int]) -> EncoderOutput:
    """Frames at the offsets ``context`` side by side; zeros after each clip's end."""
    frames = torch.cat([neighbour(x, lengths, offset) for offset in context], dim=-1)
    frames = frames * valid_mask(lengths, frames.shape[1])[:, :, None]
    return EncoderOutput(frames, lengths, (frames,))
