"""Sound events of the demo corpus, told apart by how they unfold and not by their spectrum.

Classes come in families that share carriers, pitch range and tempo; within a family only order,
direction, rate or rhythm differs. Mean and spread of a log-mel spectrogram are nearly the same for
a rising and a falling sweep, so a feature must see time to separate them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ssl_audio.data.demo.tones import (
    additive,
    fade,
    num_samples,
    place,
    random_noise,
    random_tone,
    seconds,
    stroke,
)

Render = Callable[[np.random.Generator, float], np.ndarray]


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _sweep(rng: np.random.Generator, duration_sec: float, direction: int) -> np.ndarray:
    """One to three glides over one to two and a half octaves."""
    count = int(rng.integers(1, 4))
    low_hz, octaves = _log_uniform(rng, 200, 900), rng.uniform(1.0, 2.5)
    glide = num_samples(duration_sec / count * rng.uniform(0.7, 0.95))
    gap = num_samples(duration_sec / count) - glide
    position = np.linspace(0, 1, glide) ** rng.uniform(0.7, 1.4)
    frequency = low_hz * 2 ** (octaves * (position if direction > 0 else 1 - position))
    one = fade(random_tone(frequency, rng), 0.02, 0.02)
    return np.concatenate([np.pad(one, (0, gap)) for _ in range(count)])


def _vibrato(rng: np.random.Generator, duration_sec: float, rate_hz: float) -> np.ndarray:
    """A tone whose pitch swings at ``rate_hz``."""
    time = seconds(num_samples(duration_sec))
    center_hz, semitones = _log_uniform(rng, 400, 1600), rng.uniform(2, 7)
    swing = np.sin(2 * np.pi * rate_hz * time + rng.uniform(0, 2 * np.pi))
    return fade(random_tone(center_hz * 2 ** (semitones * swing / 12), rng), 0.03, 0.05)


def _pulsing(rng: np.random.Generator, duration_sec: float, rate_hz: float) -> np.ndarray:
    """Noise that swells and dies at ``rate_hz``."""
    size = num_samples(duration_sec)
    cycle = np.sin(np.pi * rate_hz * seconds(size) + rng.uniform(0, np.pi)) ** 2
    return fade(random_noise(size, rng) * cycle ** rng.uniform(1.0, 2.5), 0.01, 0.01)


def _strokes(rng: np.random.Generator, duration_sec: float, onsets: np.ndarray) -> np.ndarray:
    gains = rng.uniform(0.6, 1.0, len(onsets))
    jittered = np.maximum(onsets + rng.normal(0, 0.004, len(onsets)), 0)
    return place(jittered, gains, stroke(rng), num_samples(duration_sec))


def _knocking(rng: np.random.Generator, duration_sec: float) -> np.ndarray:
    return _strokes(rng, duration_sec, np.arange(0.02, duration_sec, 1 / rng.uniform(3, 7)))


def _galloping(rng: np.random.Generator, duration_sec: float) -> np.ndarray:
    """Short, short, long: as many strokes in a second as knocking."""
    mean_gap = 1 / rng.uniform(3, 7)
    gaps = np.tile(mean_gap * np.array([0.6, 0.6, 1.8]), 1 + int(duration_sec / mean_gap))
    onsets = np.cumsum(np.roll(gaps, int(rng.integers(3))))
    return _strokes(rng, duration_sec, onsets[onsets < duration_sec])


def _bouncing(rng: np.random.Generator, duration_sec: float) -> np.ndarray:
    """Gaps shrink by a constant ratio, as with a dropped ball."""
    count = max(4, round(rng.uniform(3, 7) * duration_sec))
    gaps = rng.uniform(0.75, 0.88) ** np.arange(count)
    onsets = np.concatenate([[0.0], np.cumsum(gaps)]) * 0.95 * duration_sec / gaps.sum()
    return _strokes(rng, duration_sec, 0.01 + onsets)


def _crackling(rng: np.random.Generator, duration_sec: float) -> np.ndarray:
    """Strokes at random times."""
    count = max(3, round(rng.uniform(3, 7) * duration_sec))
    return _strokes(rng, duration_sec, np.sort(rng.uniform(0, duration_sec, count)))


def _chime(rng: np.random.Generator, duration_sec: float, direction: int) -> np.ndarray:
    """Two or three struck tones, going up or down."""
    count = int(rng.integers(2, 4))
    low_hz = _log_uniform(rng, 300, 900)
    steps = np.concatenate([[0], np.cumsum(rng.integers(2, 6, count - 1))])
    # Pitch order is the label, so the tones are equally loud and ring equally long.
    size, spacing = num_samples(duration_sec), 0.9 * duration_sec / count
    ratios = np.array([1.0, 2.0, rng.uniform(2.6, 3.1), rng.uniform(3.9, 5.6)])
    gains = rng.uniform(0.2, 1.0, len(ratios))
    length = num_samples(spacing * 1.1)
    decay = np.exp(-seconds(length) / rng.uniform(0.1, 0.4))
    out = np.zeros(size)
    for position, step in enumerate(steps[::direction]):
        tone = additive(np.full(length, low_hz * 2 ** (step / 12)), ratios, gains, rng)
        start = np.array([0.02 + position * spacing])
        out += place(start, np.ones(1), fade(tone * decay, 0.003, 0.01), size)
    return out


def _ramp(rng: np.random.Generator, duration_sec: float, direction: int) -> np.ndarray:
    """An engine, a buzz in noise, whose level climbs (or sinks) by 15 to 35 dB."""
    size = num_samples(duration_sec)
    gain_db = np.linspace(-rng.uniform(15, 35), 0, size)[::direction]
    firing_hz = np.full(size, _log_uniform(rng, 60, 250))
    ratios = np.arange(1, 25)
    buzz = additive(firing_hz, ratios, ratios ** -rng.uniform(0.5, 1.2), rng)
    engine = buzz + rng.uniform(0.2, 1.0) * random_noise(size, rng)
    return fade(engine * 10 ** (gain_db / 20), 0.02, 0.02)


EVENTS: dict[str, Render] = {
    "approaching": lambda rng, sec: _ramp(rng, sec, +1),
    "bouncing": _bouncing,
    "chime_falling": lambda rng, sec: _chime(rng, sec, -1),
    "chime_rising": lambda rng, sec: _chime(rng, sec, +1),
    "chugging": lambda rng, sec: _pulsing(rng, sec, rng.uniform(2.5, 5)),
    "crackling": _crackling,
    "galloping": _galloping,
    "knocking": _knocking,
    "rattling": lambda rng, sec: _pulsing(rng, sec, rng.uniform(11, 22)),
    "receding": lambda rng, sec: _ramp(rng, sec, -1),
    "siren": lambda rng, sec: _vibrato(rng, sec, rng.uniform(0.8, 2.0)),
    "sweep_falling": lambda rng, sec: _sweep(rng, sec, -1),
    "sweep_rising": lambda rng, sec: _sweep(rng, sec, +1),
    "trill": lambda rng, sec: _vibrato(rng, sec, rng.uniform(7, 14)),
}


def render_event(name: str, rng: np.random.Generator) -> np.ndarray:
    """A dry event of 1 to 3 s with a short lead-in and tail, (S,) float64 at 16 kHz."""
    sound = EVENTS[name](rng, _log_uniform(rng, 1.0, 2.6))
    peak = np.abs(sound).max()
    lead, tail = (num_samples(s) for s in rng.uniform(0.0, 0.15, 2))
    return np.pad(sound / peak, (lead, tail))
