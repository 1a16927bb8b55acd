"""The way from a dry sound to a recording: room, noise, microphone, level.

Every clip draws its own channel, so that long-term spectrum, level and noise floor say little about
what is heard and a probe on log-mel statistics has to work around them.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import soundfile
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import fftconvolve

SAMPLE_RATE_HZ = 16_000


@dataclass(frozen=True, slots=True)
class ChannelRange:
    """What ``record`` draws from: uniform between the two ends, decibels and seconds."""

    snr_db: tuple[float, float] = (8.0, 40.0)
    level_dbfs: tuple[float, float] = (-32.0, -14.0)  # rms of the whole clip
    reverberation_sec: tuple[float, float] = (0.1, 0.6)  # decay by 60 dB
    wet_db: tuple[float, float] = (
        -20.0,
        -3.0,
    )  # energy of the room's tail against the direct sound
    equalizer_db: float = 5.0  # standard deviation per octave band
    telephone_probability: float = 0.15


def record(
    dry: np.ndarray, rng: np.random.Generator, ranges: ChannelRange | None = None
) -> np.ndarray:
    """``dry`` (S,) at 16 kHz as heard through a random channel, (S,) float32, peak below 0.97.

    The direct sound stays where it is: labels keep their times.
    """
    ranges = ranges or ChannelRange()
    wet = _reverberate(dry, rng, ranges) if rng.random() < 0.7 else dry
    snr_db = rng.uniform(*ranges.snr_db)
    noisy = wet + _noise(len(dry), rng) * _rms(wet) * 10 ** (-snr_db / 20)
    coloured = _equalize(noisy, rng, ranges)
    level = 10 ** (rng.uniform(*ranges.level_dbfs) / 20)
    gain = min(level / _rms(coloured), 0.97 / float(np.abs(coloured).max() + 1e-9))
    return (coloured * gain).astype(np.float32)


def encode_flac(samples: np.ndarray) -> bytes:
    """(S,) samples at 16 kHz as a 16-bit FLAC file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def coloured_noise(num_samples: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of unit rms whose power falls with frequency to the power of ``exponent``."""
    size = next_fast_len(num_samples, real=True)
    spectrum = rfft(rng.standard_normal(size))
    frequency = np.maximum(np.arange(len(spectrum)) * SAMPLE_RATE_HZ / size, 40.0)
    noise = irfft(spectrum * frequency ** (-exponent / 2), size)[:num_samples]
    return noise / _rms(noise)


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x * x)) + 1e-9)


def _reverberate(dry: np.ndarray, rng: np.random.Generator, ranges: ChannelRange) -> np.ndarray:
    decay_sec = rng.uniform(*ranges.reverberation_sec)
    time = np.arange(int(decay_sec * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tail = coloured_noise(len(time), rng.uniform(0, 1), rng) * 10 ** (-3 * time / decay_sec)
    tail[: int(rng.uniform(0.002, 0.02) * SAMPLE_RATE_HZ)] = 0.0  # first reflection
    tail *= 10 ** (rng.uniform(*ranges.wet_db) / 20) / (np.linalg.norm(tail) + 1e-9)
    return dry + fftconvolve(dry, tail)[: len(dry)]


def _noise(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Unit rms: hiss to rumble, sometimes with mains hum."""
    noise = coloured_noise(num_samples, rng.uniform(0.0, 1.8), rng)
    if rng.random() < 0.2:
        mains_hz = rng.choice([50.0, 60.0])
        time = np.arange(num_samples) / SAMPLE_RATE_HZ
        for harmonic in (1, 2, 3, 5):
            phase = rng.uniform(0, 2 * np.pi)
            noise += rng.uniform(0, 0.8) * np.sin(2 * np.pi * mains_hz * harmonic * time + phase)
    return noise / _rms(noise)


def _equalize(x: np.ndarray, rng: np.random.Generator, ranges: ChannelRange) -> np.ndarray:
    """Microphone: a random smooth response without delay, sometimes a telephone band."""
    size = next_fast_len(len(x) + 1024, real=True)
    frequency = np.maximum(np.arange(size // 2 + 1) * SAMPLE_RATE_HZ / size, 1.0)
    octave = np.log2(frequency / 62.5)
    bands = np.arange(8.0)  # 62.5 Hz to 8 kHz
    gain_db = np.interp(octave, bands, rng.normal(0.0, ranges.equalizer_db, len(bands)))
    gain_db += rng.normal(0.0, 1.5) * (octave - 4)  # tilt
    if rng.random() < ranges.telephone_probability:
        low_hz, high_hz = rng.uniform(200, 350), rng.uniform(3200, 4200)
        gain_db -= 24 * np.maximum(np.log2(low_hz / frequency), 0)
        gain_db -= 60 * np.maximum(np.log2(frequency / high_hz), 0)
    return irfft(rfft(x, size) * 10 ** (gain_db / 20), size)[: len(x)]
