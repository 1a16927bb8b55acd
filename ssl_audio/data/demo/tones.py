"""Building blocks of the synthesised sounds: tones along a pitch curve, strokes, envelopes.

Arrays are (S,) float64 at 16 kHz; every function draws its timbre from ``rng``.
"""

from __future__ import annotations

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from ssl_audio.data.demo.channel import SAMPLE_RATE_HZ, coloured_noise

NYQUIST_HZ = SAMPLE_RATE_HZ / 2


def seconds(num_samples: int) -> np.ndarray:
    """(S,) time of each sample."""
    return np.arange(num_samples) / SAMPLE_RATE_HZ


def num_samples(duration_sec: float) -> int:
    return round(duration_sec * SAMPLE_RATE_HZ)


def phase_of(frequency_hz: np.ndarray) -> np.ndarray:
    """Phase in radians of an oscillator that follows ``frequency_hz`` (S,)."""
    return 2 * np.pi * np.cumsum(frequency_hz) / SAMPLE_RATE_HZ


def additive(
    frequency_hz: np.ndarray, ratios: np.ndarray, gains: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Sum of partials ``ratios * frequency_hz``, each silent where it would alias.

    ``gains`` is (P,) or (P, S).
    """
    fundamental = phase_of(frequency_hz)
    out = np.zeros(len(frequency_hz))
    for ratio, gain in zip(ratios, gains, strict=True):
        audible = frequency_hz * ratio < 0.95 * NYQUIST_HZ
        if audible.any():
            out += gain * audible * np.sin(ratio * fundamental + rng.uniform(0, 2 * np.pi))
    return out


def random_tone(frequency_hz: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tone along (S,) ``frequency_hz``: from a whistle to a buzz."""
    ratios = np.arange(1, rng.integers(1, 9) + 1)
    gains = ratios ** -rng.uniform(0.3, 1.8) * rng.uniform(0.3, 1.0, len(ratios))
    return additive(frequency_hz, ratios, gains, rng)


def random_noise(size: int, rng: np.random.Generator) -> np.ndarray:
    """Coloured noise through one broad random resonance."""
    noise = coloured_noise(size, rng.uniform(-0.3, 1.5), rng)
    padded = next_fast_len(size, real=True)
    frequency = np.maximum(np.arange(padded // 2 + 1) * SAMPLE_RATE_HZ / padded, 20.0)
    distance = np.log2(frequency / np.exp(rng.uniform(np.log(300), np.log(5000))))
    gain = 0.1 + np.exp(-0.5 * (distance / rng.uniform(0.4, 1.5)) ** 2)
    return irfft(rfft(noise, padded) * gain, padded)[:size]


def stroke(rng: np.random.Generator) -> np.ndarray:
    """One knock: damped modes of a small object and a click of noise, at most 0.25 s."""
    time = seconds(num_samples(0.25))
    base_hz = np.exp(rng.uniform(np.log(150), np.log(1500)))
    sound = np.zeros(len(time))
    for mode in range(5):
        mode_hz = base_hz * (1 + mode * rng.uniform(0.5, 1.6))
        if mode_hz < NYQUIST_HZ:
            damping = rng.uniform(25, 120) * (1 + 0.5 * mode)
            sound += (
                rng.uniform(0.3, 1.0) * np.exp(-damping * time) * np.sin(2 * np.pi * mode_hz * time)
            )
    click = rng.standard_normal(len(time)) * np.exp(-time / rng.uniform(0.001, 0.01))
    return sound + rng.uniform(0.1, 1.0) * click


def place(onsets_sec: np.ndarray, gains: np.ndarray, sound: np.ndarray, size: int) -> np.ndarray:
    """``sound`` at each onset, cut at ``size`` samples."""
    out = np.zeros(size + len(sound))
    for onset, gain in zip(onsets_sec, gains, strict=True):
        start = num_samples(onset)
        if 0 <= start < size:
            out[start : start + len(sound)] += gain * sound
    return out[:size]


def fade(x: np.ndarray, rise_sec: float, fall_sec: float) -> np.ndarray:
    """Raised-cosine edges, so that nothing starts or ends with a click."""
    out = x.copy()
    rise, fall = (min(num_samples(s), len(x) // 2) for s in (rise_sec, fall_sec))
    if rise:
        out[:rise] *= 0.5 - 0.5 * np.cos(np.pi * np.arange(rise) / rise)
    if fall:
        out[-fall:] *= 0.5 + 0.5 * np.cos(np.pi * np.arange(fall) / fall)
    return out
