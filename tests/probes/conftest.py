"""A small encoder and a suite of synthesised clips that its layers can partly solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl_audio import audio
from ssl_audio.batch import EncoderOutput, valid_mask
from ssl_audio.models.encoder import Encoder
from ssl_audio.probes import heads
from ssl_audio.probes.suite import SPLITS, Example, ProbeClip, ProbeSuite, ProbeTask
from ssl_audio.probes.syllable_corpora import SyllableCorpus, SyllableRecording

HOP = 320


class TinyEncoder(Encoder):
    """20 ms log spectra, two layers of different width, and things that training mode changes."""

    kind = "tiny"
    frame_rate = 50.0
    num_layers = 2

    def __init__(self, dim: int = 12) -> None:
        super().__init__()
        self.embed_dim = dim
        self.first = nn.Linear(HOP // 2 + 1, dim)
        self.norm = nn.BatchNorm1d(dim)
        self.dropout = nn.Dropout(0.2)
        self.second = nn.Linear(dim, dim + 4)
        self.out = nn.Linear(dim + 4, dim)
        self.table: Tensor | None = None

    @property
    def config(self) -> dict[str, Any]:
        return {"dim": self.embed_dim}

    def num_frames(self, num_samples: Any) -> Any:
        return num_samples // HOP

    def features(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames = waveforms[:, : waveforms.shape[1] // HOP * HOP].unflatten(1, (-1, HOP))
        return torch.log(torch.fft.rfft(frames).abs() + 1e-2), self.num_frames(lengths)

    def forward_features(self, features: Tensor, lengths: Tensor | None = None) -> EncoderOutput:
        assert lengths is not None
        if self.table is None:  # kept from the first call on, as position tables often are
            self.table = torch.ones(())
        mask = valid_mask(lengths, features.shape[1])[..., None]
        first = self.dropout(torch.tanh(self.first(features))) * self.table * mask
        first = self.norm(first.transpose(1, 2)).transpose(1, 2)
        second = torch.tanh(self.second(first))
        return EncoderOutput(self.out(second), lengths, (features, first, second))


@pytest.fixture
def quick_heads(monkeypatch):
    """Heads that learn by gradient steps take fewer of them."""
    monkeypatch.setattr(heads, "HEAR_SCHEDULE", replace(heads.HEAR_SCHEDULE, max_epochs=12))
    quick = replace(heads.SUPERB_TRAINING, steps=200, eval_every=100)
    monkeypatch.setattr(heads, "SUPERB_TRAINING", quick)


@pytest.fixture
def tiny_encoder() -> TinyEncoder:
    torch.manual_seed(7)  # not the seed of an untrained twin
    return TinyEncoder()


@pytest.fixture(scope="session")
def tone_suite() -> ProbeSuite:
    """Clips of one tone (task ``tone``, 3 classes), half of each loud (frame task ``loud``)."""
    return make_tone_suite()


@pytest.fixture(scope="session")
def make_suite() -> Callable[..., ProbeSuite]:
    return make_tone_suite


def make_tone_suite(counts: tuple[int, int, int] = (30, 12, 18), seed: int = 0) -> ProbeSuite:
    rng = np.random.default_rng(seed)
    clips: dict[str, ProbeClip] = {}
    tones: dict[str, list[Example]] = {split: [] for split in SPLITS}
    halves: dict[str, list[Example]] = {split: [] for split in SPLITS}
    frames: dict[str, list[Example]] = {split: [] for split in SPLITS}
    for split, count in zip(SPLITS, counts, strict=True):
        for index in range(count):
            name, tone = f"{split}-{index}", index % 3
            duration = 0.3 + 0.05 * (index % 5)
            clips[name] = ProbeClip(name, _tone_bytes(tone, duration, rng), duration)
            tones[split].append(Example(name, f"tone{tone}"))
            halves[split].append(Example(name, "loud", 0.0, duration / 2))
            halves[split].append(Example(name, "soft", duration / 2, duration))
            frames[split].append(Example(name, "loud", 0.04, 0.06))
            frames[split].append(Example(name, "soft", duration - 0.06, duration - 0.04))
    tasks = (
        ProbeTask("tone", "clip", {s: tuple(e) for s, e in tones.items()}),
        ProbeTask("half", "segment", {s: tuple(e) for s, e in halves.items()}),
        ProbeTask("loud", "frame", {s: tuple(e) for s, e in frames.items()}),
    )
    return ProbeSuite("tones", clips, tasks)


def _tone_bytes(tone: int, duration_sec: float, rng: np.random.Generator) -> bytes:
    time = np.arange(round(duration_sec * 16_000)) / 16_000
    frequency = (300.0, 700.0, 1500.0)[tone] * rng.uniform(0.9, 1.1)
    envelope = np.where(time < duration_sec / 2, 0.5, 0.05)
    samples = envelope * np.sin(2 * np.pi * frequency * time)
    samples = samples + 0.002 * rng.standard_normal(len(time))
    return audio.encode(samples.astype(np.float32), 16_000, "WAV")


@pytest.fixture(scope="module")
def burst_corpus(bursts) -> SyllableCorpus:
    def recording(name, seed):
        order = np.random.default_rng(seed).integers(3, size=5).tolist()
        wav = bursts.wav_of(order, seed)
        spans = [(start, end, "abc"[tone]) for tone, start, end in bursts.times_of(order)]
        return SyllableRecording.of(name, wav, bursts.duration_of(order), spans)

    splits = {
        split: tuple(recording(f"{split}{i}", 10 * number + i) for i in range(4))
        for number, split in enumerate(SPLITS)
    }
    return SyllableCorpus("bursts", splits)
