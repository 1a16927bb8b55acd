"""Musical notes of the demo corpus: eight synthetic instruments, twelve semitones.

An instrument is a law for its partials and their development in time; brightness, attack, tuning
and vibrato are drawn per clip. Striking and sustained instruments share spectra as far as they can.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ssl_audio.data.demo.channel import SAMPLE_RATE_HZ, coloured_noise
from ssl_audio.data.demo.tones import additive, fade, num_samples, seconds

PITCHES = tuple(range(54, 66))  # MIDI note numbers, F#3 to F4
Render = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def _partials(frequency_hz: np.ndarray, limit: int = 40) -> np.ndarray:
    highest = int(0.95 * SAMPLE_RATE_HZ / 2 / frequency_hz.max())
    return np.arange(1, max(1, min(limit, highest)) + 1)


def _vibrato(frequency_hz: np.ndarray, rng: np.random.Generator, cents: float) -> np.ndarray:
    """Pitch swings at 4.5 to 6.5 Hz, setting in after the attack."""
    time = seconds(len(frequency_hz))
    depth = cents * np.clip(time / 0.4, 0, 1)
    swing = np.sin(2 * np.pi * rng.uniform(4.5, 6.5) * time + rng.uniform(0, 2 * np.pi))
    return frequency_hz * 2 ** (depth * swing / 1200)


def _struck(
    rng: np.random.Generator,
    frequency_hz: np.ndarray,
    ratios: np.ndarray,
    gains: np.ndarray,
    decay_sec: float,
    damping: float,
) -> np.ndarray:
    """Partials that die exponentially, higher ones faster by ``damping``."""
    time = seconds(len(frequency_hz))
    rates = (1 + damping * (ratios - 1)) / decay_sec
    return additive(frequency_hz, ratios, gains[:, None] * np.exp(-rates[:, None] * time), rng)


def _piano(rng: np.random.Generator, frequency_hz: np.ndarray) -> np.ndarray:
    n = _partials(frequency_hz)
    ratios = n * np.sqrt(1 + rng.uniform(2e-4, 6e-4) * n**2)  # stiff strings
    hammer = np.abs(np.sin(np.pi * n * rng.uniform(0.1, 0.14))) + 0.05
    gains = hammer * n ** -rng.uniform(0.8, 1.4)
    return _struck(rng, frequency_hz, ratios, gains, rng.uniform(0.5, 1.2), 0.25)


def _guitar(rng: np.random.Generator, frequency_hz: np.ndarray) -> np.ndarray:
    n = _partials(frequency_hz)
    pluck = np.abs(np.sin(np.pi * n * rng.uniform(0.15, 0.35))) + 0.02
    gains = pluck * n ** -rng.uniform(0.6, 1.1)
    return _struck(rng, frequency_hz, n, gains, rng.uniform(0.4, 0.9), 0.6)


def _mallet(rng: np.random.Generator, frequency_hz: np.ndarray) -> np.ndarray:
    ratios = np.array([1.0, 3.93 + rng.normal(0, 0.05), 9.2 + rng.normal(0, 0.2)])
    gains = np.array([1.0, rng.uniform(0.2, 0.6), rng.uniform(0.05, 0.3)])
    return _struck(rng, frequency_hz, ratios, gains, rng.uniform(0.25, 0.7), 0.5)


def _organ(rng: np.random.Generator, frequency_hz: np.ndarray) -> np.ndarray:
    n = np.array([1, 2, 3, 4, 6, 8])
    return fade(additive(frequency_hz, n, rng.uniform(0.2, 1.0, len(n)), rng), 0.015, 0.04)


def _clarinet(rng: np.random.Generator, frequency_hz: np.ndarray) -> np.ndarray:
    n = _partials(frequency_hz, 24)
    gains = n ** -rng.uniform(0.7, 1.3) * np.where(n % 2 == 1, 1.0, rng.uniform(0.03, 0.15))
    return fade(additive(frequency_hz, n, gains, rng), rng.uniform(0.03, 0.08), 0.06)


def _flute(rng: np.random.Generator, frequency_hz: np.ndarray) -> np.ndarray:
    n = _partials(frequency_hz, 6)
    tone = additive(_vibrato(frequency_hz, rng, rng.uniform(10, 25)), n, 1.0 / n**2.2, rng)
    breath = coloured_noise(len(tone), 0.5, rng) * rng.uniform(0.02, 0.08)
    return fade(tone + breath, rng.uniform(0.06, 0.14), 0.08)


def _violin(rng: np.random.Generator, frequency_hz: np.ndarray) -> np.ndarray:
    n = _partials(frequency_hz)
    body_hz = np.array([rng.normal(480, 30), rng.normal(1100, 80), rng.normal(2700, 200)])
    distance = np.log2(n[:, None] * frequency_hz.mean() / body_hz)
    gains = (0.25 + np.exp(-0.5 * (distance / 0.35) ** 2).sum(1)) / n
    bowed = additive(_vibrato(frequency_hz, rng, rng.uniform(15, 35)), n, gains, rng)
    return fade(bowed, rng.uniform(0.08, 0.2), 0.1)


def _trumpet(rng: np.random.Generator, frequency_hz: np.ndarray) -> np.ndarray:
    """Upper partials come later than the lower ones and go earlier."""
    n = _partials(frequency_hz)
    time = seconds(len(frequency_hz))
    blow = np.clip(time / rng.uniform(0.05, 0.12), 0, 1) * np.clip((time[-1] - time) / 0.08, 0, 1)
    brightness = blow * rng.uniform(0.75, 0.9)
    gains = brightness[None] ** (n[:, None] - 1) * blow
    return additive(_vibrato(frequency_hz, rng, rng.uniform(0, 15)), n, gains, rng)


INSTRUMENTS: dict[str, Render] = {
    "clarinet": _clarinet,
    "flute": _flute,
    "guitar": _guitar,
    "mallet": _mallet,
    "organ": _organ,
    "piano": _piano,
    "trumpet": _trumpet,
    "violin": _violin,
}


def render_note(instrument: str, pitch: int, rng: np.random.Generator) -> np.ndarray:
    """One pitch played once to three times in 1 to 2 s, (S,) float64 at 16 kHz, dry.

    Args:
        pitch: MIDI note number; the tuning is off by up to a fifth of a semitone.
    """
    count = int(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15]))
    frequency = 440.0 * 2 ** ((pitch + rng.uniform(-0.2, 0.2) - 69) / 12)
    sounds = []
    for share in rng.dirichlet(np.full(count, 8.0)) * rng.uniform(0.9, 1.8):
        size = num_samples(max(0.2, share))
        sound = INSTRUMENTS[instrument](rng, np.full(size, frequency))
        sounds.append(fade(sound, 0.002, 0.02) * rng.uniform(0.6, 1.0))
    note = np.concatenate(sounds)
    lead, tail = (num_samples(s) for s in rng.uniform(0.02, 0.15, 2))
    return np.pad(note / np.abs(note).max(), (lead, tail))
