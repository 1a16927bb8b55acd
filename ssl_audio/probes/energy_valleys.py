"""The baseline of syllable segmentation: boundaries at the valleys of the mel energy."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from ssl_audio.frontends import KaldiFbank

NUM_MEL_BINS = 40
SMOOTH_SEC = (
    0.02  # standard deviation of the smoothing; these three did best on EmoDB training speech
)
SPEECH_RANGE_DB = 45.0  # below the loudest frame is silence
MIN_DEPTH_DB = 0.5  # of a valley, against the lower of the two peaks beside it


def energy_valleys(waveform: np.ndarray) -> np.ndarray:
    """Syllable-like segments of one recording, (m, 2) seconds.

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
