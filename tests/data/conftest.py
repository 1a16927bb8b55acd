"""Audio made in memory or in a temporary folder for the data tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from ssl_audio import audio
from ssl_audio.audio import AudioError
from ssl_audio.data.clips import Clip
from ssl_audio.data.source import Source

RATE_HZ = 16_000


class RampSource(Source):
    """Clips whose samples tell where they come from: sample k of clip i is i + k / 10^6."""

    def __init__(self, durations_sec: Sequence[float], bad: Sequence[int] = ()) -> None:
        self.clips = [
            Clip(
                f"clip{i:03d}", "memory", round(sec * RATE_HZ), RATE_HZ, ("speech", "audio")[i % 2]
            )
            for i, sec in enumerate(durations_sec)
        ]
        self.skipped = []
        self.bad = frozenset(bad)

    def read(
        self, index: int, start_sec: float = 0.0, duration_sec: float | None = None
    ) -> np.ndarray:
        if index in self.bad:
            raise AudioError(f"{self.clips[index].id}: broken; remove it")
        ramp = index + np.arange(self.clips[index].num_samples, dtype=np.float32) / 1e6
        start = round(start_sec * RATE_HZ)
        return (
            ramp[start:] if duration_sec is None else ramp[start:][: round(duration_sec * RATE_HZ)]
        )


def durations(num_clips: int, seed: int = 0) -> list[float]:
    """Between 0.1 and 0.5 s."""
    return np.random.default_rng(seed).uniform(0.1, 0.5, num_clips).round(3).tolist()


@pytest.fixture(scope="session")
def ramp_source() -> Callable[..., RampSource]:
    """``ramp_source(num_clips, bad=())``: speech and audio clips in turn, 0.1 to 0.5 s."""
    return lambda num_clips, bad=(): RampSource(durations(num_clips), bad)


@pytest.fixture(scope="session")
def write_noise() -> Callable[..., Path]:
    """``write_noise(path, seconds, rate_hz=16000)``: a file of noise; folders are made."""

    def write(path: Path, seconds: float = 0.5, rate_hz: int = RATE_HZ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = sum(path.name.encode())
        noise = np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate_hz))
        audio.write(path, noise.astype(np.float32), rate_hz)
        return path

    return write
