"""Syllables from loudness alone: speech is cut at the valleys of its mel energy.

The baseline of syllable segmentation, and labels for a first stage of Sylber where there is too
little speech for SD-HuBERT to find syllables. Axes: B clips, S samples, T frames, N segments.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_audio.batch import IGNORE_CODE, SAMPLE_RATE_HZ, Tokens, full_lengths
from ssl_audio.frontends import KaldiFbank
from ssl_audio.tokenizers.tokenizer import Tokenizer

NUM_MEL_BINS = 40
SMOOTH_SEC = (
    0.02  # standard deviation of the smoothing; these three did best on EmoDB training speech
)
SPEECH_RANGE_DB = 45.0  # below the loudest frame is silence
MIN_DEPTH_DB = 0.5  # of a valley, against the lower of the two peaks beside it
HOP, WINDOW = 320, 400  # samples of HuBERT's frames


def energy_valleys(waveform: np.ndarray) -> np.ndarray:
    """Syllable-like segments of one recording, (N, 2) seconds.

    Mel energies are summed and smoothed over time; loud stretches are cut at local minima.

    Args:
        waveform: (S,) float32 at 16 kHz.
    """
    from scipy.ndimage import gaussian_filter1d
    from scipy.signal import find_peaks

    fbank = KaldiFbank(num_mel_bins=NUM_MEL_BINS)
    log_mel = fbank(torch.from_numpy(np.asarray(waveform, np.float32))[None])[0]
    if not len(log_mel):
        return np.zeros((0, 2))
    level_db = 10 / np.log(10) * torch.logsumexp(log_mel.double(), 1).numpy()
    level_db = gaussian_filter1d(level_db, SMOOTH_SEC * fbank.frame_rate)
    speech = level_db > level_db.max() - SPEECH_RANGE_DB
    valleys, _ = find_peaks(-level_db, prominence=MIN_DEPTH_DB)
    edges = np.flatnonzero(np.diff(np.pad(speech.astype(np.int8), 1)))
    found: list[tuple[int, int]] = []
    for start, end in edges.reshape(-1, 2):
        inner = valleys[(valleys > start) & (valleys < end - 1)]
        cuts = [start, *inner.tolist(), end]
        found += itertools.pairwise(cuts)
    middle_sec = 0.5 / fbank.frame_rate  # of a frame
    return np.array(found, np.float64).reshape(-1, 2) / fbank.frame_rate + middle_sec


class EnergyValleyTokenizer(Tokenizer):
    """Labels 1, 2, 1 ... of the stretches between valleys in order of time, 0 in the valleys.

    A valley has a width: who learns the labels as Sylber does gives its frames no norm, and the
    norms of frames come to tell syllables apart. Frames are HuBERT's, and belong to what is at
    their middle.

    Args:
        gap_sec: width of a valley.

    Raises:
        ValueError: ``gap_sec`` is negative.
    """

    kind = "energy_valleys"
    frame_rate = SAMPLE_RATE_HZ / HOP
    num_codebooks = 1
    codebook_size = 3

    def __init__(self, gap_sec: float) -> None:
        super().__init__()
        if gap_sec < 0:
            raise ValueError(f"gap_sec={gap_sec}: give a length, 0 or above")
        self.gap_sec = gap_sec

    @property
    def config(self) -> dict[str, Any]:
        return {"gap_sec": self.gap_sec}

    def num_frames(self, num_samples: Any) -> Any:
        return (num_samples - (WINDOW - HOP)) // HOP * (num_samples >= WINDOW)

    def encode(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tokens:
        """(B, S) float32 in [-1, 1] and valid samples (B,) to labels (B, T, 1)."""
        lengths = full_lengths(waveforms) if lengths is None else lengths
        codes = np.full((len(waveforms), self.num_frames(waveforms.shape[1])), IGNORE_CODE)
        num_frames = self.num_frames(lengths)
        waves = waveforms.float().cpu().numpy()
        for row, wave, size, count in zip(
            codes, waves, lengths.tolist(), num_frames.tolist(), strict=True
        ):
            row[:count] = self._labels(energy_valleys(wave[:size]), count)
        return Tokens(torch.from_numpy(codes)[:, :, None].to(waveforms.device), num_frames)

    def _labels(self, segments: np.ndarray, num_frames: int) -> np.ndarray:
        """(T,) labels of the segments (N, 2) in seconds."""
        middle_sec = (np.arange(num_frames) * HOP + WINDOW / 2) / SAMPLE_RATE_HZ
        labels = np.zeros(num_frames, np.int64)
        for number, (start, end) in enumerate(segments):
            inside = (middle_sec >= start + self.gap_sec / 2) & (
                middle_sec < end - self.gap_sec / 2
            )
            labels[inside] = 1 + number % 2
        return labels
