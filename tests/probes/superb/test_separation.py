"""Masks for separation and enhancement."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_audio import audio
from ssl_audio.probes.sources import EncoderLayers
from ssl_audio.probes.superb import separation
from ssl_audio.probes.superb.frame_task import Batch
from ssl_audio.probes.superb.layers import LayerStack
from ssl_audio.probes.superb.separation import SourceSeparation, Spectrogram, SpeechEnhancement
from ssl_audio.probes.superb.task import Recipe, Settings

OPTIONS = {
    "train": "train-100",
    "window": 512,
    "lstm": {"hidden": 16, "layers": 1, "dropout": 0.0},
}


def bursts(tone: float, rng: np.random.Generator) -> np.ndarray:
    time = np.arange(12_345) / 16_000
    loud = np.repeat(rng.uniform(0.2, 1.0, 13), 1000)[: len(time)]
    return (0.3 * loud * np.sin(2 * np.pi * tone * time)).astype(np.float32)


def write_libri2mix(root: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train-100", 4), ("dev", 2), ("test", 2)):
        for number in range(count):
            sources = {"s1": bursts(400.0, rng), "s2": bursts(2000.0, rng)}
            sources["mix_clean"] = sources["s1"] + sources["s2"]
            for name, samples in sources.items():
                path = root / "wav16k" / "min" / part / name / f"{number}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                audio.write(path, samples, 16_000)


@pytest.fixture(scope="module")
def libri2mix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("Libri2Mix")
    write_libri2mix(root)
    return root


def test_tones_are_separated(libri2mix: Path, tiny_encoder) -> None:
    recipe = Recipe("", (1e-2,), 40, 40, batch_size=2, optimizer="adamw", options=OPTIONS)
    task = SourceSeparation(libri2mix, recipe, 0)
    (fold,) = task.run(LayerStack(EncoderLayers(tiny_encoder)), Settings()).folds
    assert fold.scores["si_sdri"] > 5


@pytest.mark.parametrize(("hop", "size"), [(160, 4000), (320, 4001), (320, 300)])
def test_spectrogram_and_back(hop: int, size: int) -> None:
    torch.manual_seed(0)
    waveforms = torch.randn(2, 3, size)
    spectrogram = Spectrogram(512, hop)
    spectra = spectrogram(waveforms)
    assert spectra.shape == (2, 3, 1 + (size + 512) // hop, 257)
    back = spectrogram.inverse(spectra, size)
    torch.testing.assert_close(back, waveforms, atol=1e-5, rtol=1e-5)
    # A clip alone has the spectra that it has in a longer batch.
    longer = spectrogram(torch.nn.functional.pad(waveforms, (0, 700)))
    torch.testing.assert_close(longer[..., : spectra.shape[2], :], spectra)


def test_a_perfect_mask_gives_the_source_back(libri2mix: Path) -> None:
    task = SourceSeparation(libri2mix, Recipe("", options=OPTIONS), 0)
    task.spectrogram, task.repeats = Spectrogram(512, 320), 2
    utterance = task.splits["test"][0]
    mixture = torch.from_numpy(audio.read(utterance.path))[None]
    batch = Batch((utterance,), mixture, torch.tensor([mixture.shape[1]]))
    low, high = torch.zeros(257), torch.zeros(257)
    low[:38], high[38:] = 1.0, 1.0  # split at 1200 Hz
    frames = 1 + mixture.shape[1] // 640
    masks = torch.stack([high, low])[None, :, None].expand(1, 2, frames, 257)
    (scores,) = task.predict(masks, torch.tensor([frames]), batch)
    assert scores["si_sdri"] > 20
    (unprocessed,) = task.predict(torch.ones_like(masks), torch.tensor([frames]), batch)
    assert unprocessed["si_sdri"] == pytest.approx(0, abs=0.1)


def write_voicebank(root: Path) -> None:
    rng = np.random.default_rng(0)
    for name, part in (("p226_1", "train"), ("p300_1", "train"), ("p232_1", "test")):
        clean = bursts(400.0, rng)
        noisy = clean + 0.05 * rng.standard_normal(len(clean)).astype(np.float32)
        stem = "testset_wav" if part == "test" else "trainset_28spk_wav"
        for side, samples in (("clean", clean), ("noisy", noisy)):
            (root / f"{side}_{stem}").mkdir(exist_ok=True)
            audio.write(root / f"{side}_{stem}" / f"{name}.wav", samples, 16_000)


def test_enhancement_reports_quality(
    tmp_path: Path, tiny_encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_voicebank(tmp_path)
    heard: list[tuple] = []

    def pesq(rate: int, clean: np.ndarray, found: np.ndarray, mode: str, on_error: int) -> float:
        heard.append((rate, clean.shape, found.shape, mode))
        return float("nan")  # as for silence

    monkeypatch.setattr(separation, "_quality_measures", lambda: (pesq, lambda *_: 0.5))
    recipe = Recipe("", (1e-3,), 1, 1, batch_size=1, options={**OPTIONS, "train": "train"})
    task = SpeechEnhancement(tmp_path, recipe, 0)
    (fold,) = task.run(LayerStack(EncoderLayers(tiny_encoder)), Settings()).folds
    assert fold.scores["pesq"] == 1.0
    assert fold.scores["stoi"] == 0.5
    assert np.isfinite(fold.scores["si_sdri"])
    assert heard == [(16_000, (12_345,), (12_345,), "wb")] * 2  # once on dev, once on test


def test_enhancement_needs_its_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_voicebank(tmp_path)
    monkeypatch.setitem(sys.modules, "pesq", None)
    with pytest.raises(ValueError, match=r"install ssl-audio\[superb\]"):
        SpeechEnhancement(tmp_path, Recipe("", options={**OPTIONS, "train": "train"}), 0)
