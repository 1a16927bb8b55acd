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
from ssl_audio.frontends.kaldi import FRAME_SHIFT, KaldiFbank
from ssl_audio.tokenizers.tokenizer import Tokenizer

NUM_MEL_BINS = 40
LEVEL_RATE_HZ = SAMPLE_RATE_HZ / FRAME_SHIFT
SMOOTH_SEC = (
    0.02  # standard deviation of the smoothing; these three did best on EmoDB training speech
)
SPEECH_RANGE_DB = 45.0  # below the loudest frame is silence
MIN_DEPTH_DB = 0.5  # of a valley, against the lower of the two peaks beside it
# Of the labels; chosen on training speech of the demo corpus and EmoDB.
SONORANT_BINS = slice(5, 32)  # 0.3 to 4 kHz: vowels without rumble and hiss
LABEL_DEPTH_DB = 0.3
FLOOR_PERCENTILE, RISE_DB = 5, 3.0  # what does not rise above the clip's floor is no syllable
HOP, WINDOW = 320, 400  # samples of HuBERT's frames

Spans = list[tuple[int, int]]


def energy_valleys(waveform: np.ndarray) -> np.ndarray:
    """Syllable-like segments of one recording, (N, 2) seconds: the baseline.

    Mel energies are summed and smoothed over time; loud stretches are cut at local minima.

    Args:
        waveform: (S,) float32 at 16 kHz.
    """
    level_db = _smooth(_decibels(torch.logsumexp(_log_mel(waveform), 1)))
    return _seconds(_between_valleys(level_db, MIN_DEPTH_DB))


def sonorant_valleys(waveform: np.ndarray) -> np.ndarray:
    """As ``energy_valleys``, of a loudness in which noise counts less.

    It is that of the band of vowels, half of it the energy and half of it the mean of the bins'
    levels; segments that hardly rise above the recording's floor are left out.
    """
    log_mel = _log_mel(waveform)[:, SONORANT_BINS]
    level_db = _smooth(_decibels((torch.logsumexp(log_mel, 1) + log_mel.mean(1)) / 2))
    found = _between_valleys(level_db, LABEL_DEPTH_DB)
    least = np.percentile(level_db, FLOOR_PERCENTILE) + RISE_DB if found else 0.0
    return _seconds([(a, b) for a, b in found if level_db[a:b].max() >= least])


def _log_mel(waveform: np.ndarray) -> Tensor:
    """(T, M) float64 at 100 Hz."""
    fbank = KaldiFbank(num_mel_bins=NUM_MEL_BINS)
    return fbank(torch.from_numpy(np.asarray(waveform, np.float32))[None])[0].double()


def _decibels(log_energy: Tensor) -> np.ndarray:
    return 10 / np.log(10) * log_energy.numpy()


def _smooth(level_db: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(level_db, SMOOTH_SEC * LEVEL_RATE_HZ)


def _between_valleys(level_db: np.ndarray, min_depth_db: float) -> Spans:
    """[start, end) of the loud stretches of (T,), cut at local minima."""
    from scipy.signal import find_peaks

    if not len(level_db):
        return []
    speech = level_db > level_db.max() - SPEECH_RANGE_DB
    valleys, _ = find_peaks(-level_db, prominence=min_depth_db)
    edges = np.flatnonzero(np.diff(np.pad(speech.astype(np.int8), 1)))
    found: Spans = []
    for start, end in edges.reshape(-1, 2).tolist():
        inner = valleys[(valleys > start) & (valleys < end - 1)]
        found += itertools.pairwise([start, *inner.tolist(), end])
    return found


def _seconds(spans: Spans) -> np.ndarray:
    """(N, 2): times of the middles of frames."""
    return (np.array(spans, np.float64).reshape(-1, 2) + 0.5) / LEVEL_RATE_HZ


class EnergyValleyTokenizer(Tokenizer):
    """Labels 1, 2, 1 ... of the stretches between valleys in order of time, 0 before each valley.

    Who learns them as Sylber does gives the frames of a gap no norm, so that norms come to tell
    one syllable from the next. Frames are HuBERT's, and belong to what is at their middle.

    Args:
        gap_sec: what each stretch loses at its end.

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
            row[:count] = self._labels(sonorant_valleys(wave[:size]), count)
        return Tokens(torch.from_numpy(codes)[:, :, None].to(waveforms.device), num_frames)

    def _labels(self, segments: np.ndarray, num_frames: int) -> np.ndarray:
        """(T,) labels of the segments (N, 2) in seconds."""
        middle_sec = (np.arange(num_frames) * HOP + WINDOW / 2) / SAMPLE_RATE_HZ
        labels = np.zeros(num_frames, np.int64)
        for number, (start, end) in enumerate(segments):
            labels[(middle_sec >= start) & (middle_sec < end - self.gap_sec)] = 1 + number % 2
        return labels
