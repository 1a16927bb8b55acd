"""Kaldi log-mel filterbank energies for a padded batch, on any device.

Axes: B clips, S samples, T frames, F FFT bins, M mel bins.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ssl_audio.batch import SAMPLE_RATE_HZ
from ssl_audio.frontends.frontend import FrontEnd

FRAME_LENGTH, FRAME_SHIFT, FFT_SIZE = 400, 160, 512  # 25 ms, 10 ms, next power of two
PREEMPHASIS = 0.97
ENERGY_FLOOR = torch.finfo(torch.float32).eps
LEFT_CONTEXT = (FRAME_LENGTH - FRAME_SHIFT) // 2  # samples before the clip in its first frame
RIGHT_CONTEXT = FRAME_LENGTH - LEFT_CONTEXT - FRAME_SHIFT // 2  # at most so many after it
CPU_CHUNK_FRAMES = 512  # keeps every buffer near 1 MB, so inside a core's cache
GPU_CHUNK_FRAMES = 65_536  # bounds the memory of a file of hours
BLOCK_MELS = 32  # neighbouring filters share a span of FFT bins


class KaldiFbank(FrontEnd):
    """Log-mel energies with Kaldi's numerics: (B, S) at 16 kHz to (B, T, num_mel_bins) float32.

    25 ms Povey windows every 10 ms, each with its mean removed and pre-emphasis 0.97; power
    spectrum; triangular filters equally spaced on the scale 1127 ln(1 + f / 700); natural log of at
    least 1.19e-7. No dither. Everything before the power spectrum is computed in the order of
    ``torchaudio.compliance.kaldi.fbank``: rounding there decides nearly silent bands.

    SPEAR reads it with the defaults on samples in [-1, 1]; BEATs with ``snip_edges=True`` and
    ``high_freq_hz=0`` on samples times 2**15.

    Args:
        num_mel_bins: M.
        low_freq_hz: lower edge of the first filter.
        high_freq_hz: upper edge of the last filter; 0 or less counts from the Nyquist frequency.
        snip_edges: frames only where a whole window fits. Otherwise one frame per 10 ms, and the
            clip is mirrored at its own ends, whatever padding follows it.
        pad_value: fills frames after a clip's end. The default is log(1e-10), with which SPEAR pads
            its features.

    Raises:
        ValueError: band edges that leave no band.
    """

    window: Tensor
    mel_weights: Tensor

    def __init__(
        self,
        num_mel_bins: int = 128,
        low_freq_hz: float = 20.0,
        high_freq_hz: float = -400.0,
        snip_edges: bool = False,
        pad_value: float = math.log(1e-10),
    ) -> None:
        super().__init__(num_mel_bins, FRAME_SHIFT, pad_value)
        self.snip_edges = snip_edges
        weights = mel_filterbank(num_mel_bins, low_freq_hz, high_freq_hz)
        self.blocks = banded_blocks(weights)
        self.register_buffer("window", povey_window(), persistent=False)
        self.register_buffer("mel_weights", weights, persistent=False)

    def _frames_of(self, num_samples: int | Tensor) -> int | Tensor:
        if self.snip_edges:
            return (num_samples - FRAME_LENGTH) // FRAME_SHIFT + 1
        return (num_samples + FRAME_SHIFT // 2) // FRAME_SHIFT

    def _compute(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        if torch.is_grad_enabled() and waveforms.requires_grad:
            return self._log_mel(self._frames(waveforms, lengths))
        return self._log_mel_in_chunks(waveforms, lengths)

    def _frames(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, T, 400) overlapping view of the waveforms, or of their mirrored extension."""
        if not self.snip_edges:
            waveforms = extend(waveforms, *mirrored_edges(waveforms, lengths))
        return waveforms.unfold(1, FRAME_LENGTH, FRAME_SHIFT)

    def _log_mel(self, frames: Tensor) -> Tensor:
        """(..., 400) to (..., M), whatever the device, with gradients."""
        frames = frames - frames.mean(-1, keepdim=True)
        # The window is 0 at its first sample, so what precedes that sample does not matter.
        frames = functional.pad(frames[..., 1:] - frames[..., :-1] * PREEMPHASIS, (1, 0))
        spectrum = torch.view_as_real(torch.fft.rfft(frames * self.window, n=FFT_SIZE))
        power = spectrum[..., 0].square() + spectrum[..., 1].square()
        return (power @ self.mel_weights).clamp_min(ENERGY_FLOOR).log()

    def _log_mel_in_chunks(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """The same in bounded memory: groups of short clips, or pieces of a long one, in turn."""
        num_clips, num_samples = waveforms.shape
        num_frames = self.num_frames(num_samples)
        features = waveforms.new_empty(num_clips, num_frames, self.num_features)
        on_cpu = waveforms.device.type == "cpu"
        budget = CPU_CHUNK_FRAMES if on_cpu else GPU_CHUNK_FRAMES
        group = min(num_clips, max(1, budget // num_frames))
        piece = -(-num_frames // -(-num_frames // budget))  # pieces of equal size
        log_mel = _Workspace(group * piece, self).log_mel if on_cpu else self._log_mel_into
        if not self.snip_edges:
            edges, positions = mirrored_edges(waveforms, lengths)
            extended = waveforms.new_empty(group, LEFT_CONTEXT + num_samples + RIGHT_CONTEXT)
        for first in range(0, num_clips, group):
            clips = slice(first, first + group)
            stretch = waveforms[clips]
            if not self.snip_edges:
                out = extended[: len(stretch)]
                stretch = extend(stretch, edges[clips], positions[clips], out)
            frames = stretch.unfold(1, FRAME_LENGTH, FRAME_SHIFT)
            for start in range(0, num_frames, piece):
                span = slice(start, start + piece)
                log_mel(frames[:, span], features[clips, span])
        return features

    def _log_mel_into(self, frames: Tensor, out: Tensor) -> None:
        out.copy_(self._log_mel(frames))


class _Workspace:
    """Buffers of one CPU call. Fresh memory for each step would cost more than the arithmetic.

    The banded product skips the zeros of the filterbank, which are 95 % of it.
    """

    def __init__(self, num_rows: int, fbank: KaldiFbank) -> None:
        self.window = fbank.window[1:]
        self.blocks = [
            (mels, bins, fbank.mel_weights[bins, mels].contiguous()) for mels, bins in fbank.blocks
        ]
        self.centred = torch.empty(num_rows, FRAME_LENGTH)
        self.padded = torch.zeros(num_rows, FFT_SIZE)
        self.power = torch.empty(num_rows, FFT_SIZE // 2 + 1)

    def log_mel(self, frames: Tensor, out: Tensor) -> None:
        """(b, t, 400) frames into ``out`` (b, t, M), b * t at most ``num_rows``."""
        rows = frames.shape[0] * frames.shape[1]
        centred = self.centred[:rows]
        torch.sub(frames, frames.mean(-1, keepdim=True), out=centred.view(frames.shape))
        windowed = self.padded[:rows, 1:FRAME_LENGTH]
        torch.mul(centred[:, :-1], PREEMPHASIS, out=windowed)
        torch.sub(centred[:, 1:], windowed, out=windowed).mul_(self.window)
        # Fresh, because torch copies a transform into `out` after it has allocated it anyway.
        squares = torch.view_as_real(torch.fft.rfft(self.padded[:rows]))
        squares.mul_(squares)
        power = torch.add(squares[..., 0], squares[..., 1], out=self.power[:rows])
        energies = out.flatten(0, 1)
        for mels, bins, weights in self.blocks:
            torch.mm(power[:, bins], weights, out=energies[:, mels])
        energies.clamp_min_(ENERGY_FLOOR).log_()


def povey_window() -> Tensor:
    """(400,) the symmetric Hann window to the power 0.85, float32."""
    hann = torch.hann_window(FRAME_LENGTH, periodic=False, dtype=torch.float32, device="cpu")
    return hann.pow(0.85)


def mel_filterbank(num_mel_bins: int, low_freq_hz: float, high_freq_hz: float) -> Tensor:
    """(257, num_mel_bins) float32 triangles, slopes straight on the mel scale.

    In float32 as in Kaldi: some filters hold one FFT bin near their foot, whose small weight feels
    the rounding (1 % against float64).

    Raises:
        ValueError: no filter, or edges not within 0 <= low < high <= 8000 Hz.
    """
    nyquist = SAMPLE_RATE_HZ / 2
    high = high_freq_hz if high_freq_hz > 0 else nyquist + high_freq_hz
    if num_mel_bins < 1 or not 0 <= low_freq_hz < high <= nyquist:
        raise ValueError(
            f"{num_mel_bins} mel bins from {low_freq_hz} to {high} Hz: use at least one bin, with "
            f"0 <= low_freq_hz < high_freq_hz <= {nyquist:g}"
        )
    low_mel, high_mel = (1127.0 * math.log(1.0 + f / 700.0) for f in (low_freq_hz, high))
    spacing = (high_mel - low_mel) / (num_mel_bins + 1)
    index = torch.arange(num_mel_bins, device="cpu")
    left, centre, right = (low_mel + (index + float(edge)) * spacing for edge in range(3))
    hertz = SAMPLE_RATE_HZ / FFT_SIZE * torch.arange(FFT_SIZE // 2 + 1, device="cpu")
    mel = 1127.0 * (1.0 + hertz.float() / 700.0).log()[:, None]
    weights = torch.minimum((mel - left) / (centre - left), (right - mel) / (right - centre))
    weights[-1] = 0.0  # Kaldi leaves out the Nyquist bin
    return weights.clamp_min(0.0).float()


def banded_blocks(weights: Tensor) -> list[tuple[slice, slice]]:
    """(mel columns, FFT rows) of ``weights`` (F, M) that hold all its nonzero entries."""
    blocks = []
    for first in range(0, weights.shape[1], BLOCK_MELS):
        mels = slice(first, first + BLOCK_MELS)
        used = weights[:, mels].any(dim=1).nonzero().flatten().tolist() or [0]
        blocks.append((mels, slice(used[0], used[-1] + 1)))
    return blocks


def mirrored_edges(waveforms: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """What each clip's mirror image puts before and after it, and where.

    The edge sample is repeated (x1 x0 | x0 x1 ...), as in Kaldi; clips shorter than the context are
    mirrored again and again.

    Args:
        waveforms: (B, S).
        lengths: (B,) valid samples, or ``None`` for all.

    Returns:
        (B, 320) samples, and (B, 320) their positions in (B, 120 + S + 200) extended clips.
    """
    num_clips, num_samples = waveforms.shape
    device = waveforms.device
    if lengths is None:
        lengths = torch.full((num_clips,), num_samples, device=device)
    before = torch.arange(-LEFT_CONTEXT, 0, device=device).expand(num_clips, -1)
    after = lengths[:, None] + torch.arange(RIGHT_CONTEXT, device=device)
    outside = torch.cat([before, after], dim=1)
    length = lengths.clamp_min(1)[:, None]
    folded = outside % (2 * length)
    source = torch.where(folded < length, folded, 2 * length - 1 - folded)
    return waveforms.gather(1, source), outside + LEFT_CONTEXT


def extend(
    waveforms: Tensor, edges: Tensor, positions: Tensor, out: Tensor | None = None
) -> Tensor:
    """(b, S) clips and their edges to (b, 120 + S + 200), in ``out`` when that is given."""
    if out is None:
        out = functional.pad(waveforms, (LEFT_CONTEXT, RIGHT_CONTEXT))
    else:
        out[:, LEFT_CONTEXT:-RIGHT_CONTEXT].copy_(waveforms)
    return out.scatter_(1, positions, edges)
