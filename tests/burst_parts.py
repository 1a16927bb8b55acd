"""Bursts of three tones with silence between them, and an encoder that hears them."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from ssl_audio import audio
from ssl_audio.batch import EncoderOutput
from ssl_audio.models.encoder import Encoder

TONES_HZ = (300.0, 1100.0, 3000.0)
RATE_HZ = 16_000
BURST_SEC, GAP_SEC = 0.32, 0.32  # whole frames


class Bands(Encoder):
    """Amplitudes of eight bands at 25 Hz: silence has small norms, each tone its direction."""

    kind = "bands"
    embed_dim = 8
    num_layers = 0
    frame_rate = 25.0
    config: dict = {}  # noqa: RUF012

    def num_frames(self, num_samples):
        return num_samples // 640

    def features(self, waveforms, lengths):
        spectra = torch.fft.rfft(waveforms.unfold(1, 640, 640)).abs()[..., :-1]
        return spectra.unflatten(-1, (8, -1)).mean(-1), lengths // 640

    def forward_features(self, features, lengths=None):
        return EncoderOutput(features, lengths, (features,))


class Patches(Bands):
    """Each frame of ``Bands`` as four patches."""

    kind = "patches"
    embed_dim = 2
    frame_rate = 100.0
    patches_per_row = 4

    def num_frames(self, num_samples):
        return 4 * super().num_frames(num_samples)

    def forward_features(self, features, lengths=None):
        patches = features.unflatten(-1, (4, 2)).flatten(1, 2)
        return EncoderOutput(patches, None if lengths is None else 4 * lengths, (patches,))


def bursts(order, seed):
    """One burst of each tone of ``order``, gaps of noise around them."""
    time = np.arange(round(BURST_SEC * RATE_HZ)) / RATE_HZ
    gap = np.zeros(round(GAP_SEC * RATE_HZ))
    parts = [gap]
    for tone in order:
        parts += [0.3 * np.sin(2 * np.pi * TONES_HZ[tone] * time), gap]
    samples = np.concatenate(parts)
    return samples + 1e-3 * np.random.default_rng(seed).standard_normal(len(samples))


def wav_of(order, seed):
    return audio.encode(bursts(order, seed).astype(np.float32), RATE_HZ, "WAV")


def times_of(order):
    """(tone, start, end) in seconds."""
    starts = itertools.count(GAP_SEC, BURST_SEC + GAP_SEC)
    return [(tone, start, start + BURST_SEC) for tone, start in zip(order, starts, strict=False)]


def duration_of(order):
    return GAP_SEC + len(order) * (BURST_SEC + GAP_SEC)


def write_task(root, task, order=(0, 1, 2)):
    """A folder task of one file, the same in every split."""
    (root / "probes" / task).mkdir(parents=True)
    (root / "a.wav").write_bytes(wav_of(order, 0))
    rows = [f"a.wav,{'abc'[tone]},{start},{end}" for tone, start, end in times_of(order)]
    for split in ("train", "valid", "test"):
        text = "\n".join(["path,label,start,end", *rows, ""])
        (root / "probes" / task / f"{split}.csv").write_text(text)
