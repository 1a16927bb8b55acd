"""Heads over frames, on a task that S1's machinery alone decides: which of three tones is it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ssl_audio import audio
from ssl_audio.probes.superb import training
from ssl_audio.probes.superb.frame_task import Batch, FrameTask, random_crop
from ssl_audio.probes.superb.heads import MeanPoolLinear
from ssl_audio.probes.superb.layers import LayerStack
from ssl_audio.probes.superb.task import FoldResult, Recipe, Settings, Utterance


class ToneHead(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.2)
        self.linear = MeanPoolLinear(dim, 8, 3)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(self.dropout(frames), lengths), torch.ones_like(lengths)


class Tones(FrameTask):
    metric = "acc"
    killed_at: int | None = None

    def __init__(self, folder: Path, recipe: Recipe, seed: int) -> None:
        self.recipe, self.seed, self.calls = recipe, seed, 0
        self.splits = {
            split: [
                Utterance(f"{split}/{i}", folder / f"{split}{i}.wav", i % 3, max_sec=0.3)
                for i in range(count)
            ]
            for split, count in (("train", 14), ("valid", 6), ("test", 6))
        }

    def head(self, dim: int, frame_rate: float) -> nn.Module:
        return ToneHead(dim)

    def loss(self, head: nn.Module, outputs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
        self.calls += 1
        if self.calls == self.killed_at:
            raise KeyboardInterrupt
        targets = torch.tensor([utterance.target for utterance in batch.utterances])
        return nn.functional.cross_entropy(outputs, targets)

    def predict(self, outputs: Tensor, lengths: Tensor, batch: Batch) -> list[Any]:
        return outputs.argmax(1).tolist()


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 14), ("valid", 6), ("test", 6)):
        for number in range(count):
            time = np.arange(round((0.3 + 0.05 * (number % 4)) * 16_000)) / 16_000
            wave = 0.3 * np.sin(2 * np.pi * (300, 900, 2500)[number % 3] * time)
            noisy = (wave + 0.01 * rng.standard_normal(len(time))).astype(np.float32)
            audio.write(tmp_path / f"{split}{number}.wav", noisy, 16_000)
    return tmp_path


def recipe(**changes: Any) -> Recipe:
    row = {"folder": ".", "lrs": [3e-2, 1e-6], "steps": 12, "eval_every": 4, "batch_size": 4}
    return Recipe.of({**row, "accumulate": 2, **changes})


def run(root: Path, layers: LayerStack, settings: Settings, **changes: Any) -> FoldResult:
    return Tones(root, recipe(**changes), 0).run(layers, settings).folds[0]


def test_validation_chooses_the_learning_rate_and_the_step(tones, layers):
    fold = run(tones, layers, Settings())
    assert fold.scores["acc"] == 1.0
    assert fold.chosen["lr"] == 3e-2
    assert fold.chosen["on"] == "valid"
    assert [(row["lr"], row["step"]) for row in fold.grid] == [
        (lr, step) for step in (4, 8, 12) for lr in (3e-2, 1e-6)
    ]
    best = max(row["validation"] for row in fold.grid)
    first = next(row for row in fold.grid if row["validation"] == best)
    assert fold.chosen["step"] == first["step"]
    assert sum(fold.layer_weights.values()) == pytest.approx(1)
    assert (fold.num_train, fold.num_test) == (14, 6)


def test_a_grid_trains_as_its_learning_rates_alone(tones, layers):
    grid = run(tones, layers, Settings()).grid
    for lr in (3e-2, 1e-6):
        alone = run(tones, layers, Settings(), lrs=[lr]).grid
        assert alone == [row for row in grid if row["lr"] == lr]


def test_a_killed_training_goes_on_exactly(tones, layers, tmp_path):
    whole = run(tones, layers, Settings())
    settings = Settings(cache_dir=tmp_path / "cache")
    killed = Tones(tones, recipe(), 0)
    killed.killed_at = 4 * (4 + 2) + 1  # in step 7; two batches and two rates are four losses
    with pytest.raises(KeyboardInterrupt):
        killed.run(layers, settings)
    (stored,) = (tmp_path / "cache").glob("superb-training-*.pt")
    content = stored.read_bytes()
    resumed = Tones(tones, recipe(), 0)
    (fold,) = resumed.run(layers, settings).folds
    assert resumed.calls == 4 * 8
    assert fold == whole
    assert not stored.exists()
    stored.write_bytes(content[:100])
    assert run(tones, layers, settings) == whole


def test_accumulated_batches_are_one_large_batch(tones, layers):
    """Without dropout and crops, two batches of 7 give the step of one batch of 14."""
    weights = []
    for size, accumulate in ((14, 1), (7, 2)):
        task = Tones(tones, recipe(lrs=[1e-2], batch_size=size, accumulate=accumulate), 0)
        task.splits = {k: [_whole(u) for u in v] for k, v in task.splits.items()}
        task.head = _without_dropout  # type: ignore[method-assign]
        state = training._Run(task, layers, Settings())
        stream = task.training_stream(0)
        state.step(1, stream)
        weights.append([p.detach().clone() for p in state.candidates[0].probe.parameters()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def _whole(utterance: Utterance) -> Utterance:
    return Utterance(utterance.id, utterance.path, utterance.target)


def _without_dropout(dim: int, frame_rate: float) -> nn.Module:
    head = ToneHead(dim)
    head.dropout.p = 0.0
    return head


def test_files_that_cannot_be_read_are_left_out_and_told(tones, layers):
    (tones / "train3.wav").write_text("broken")
    (tones / "test0.wav").unlink()
    result = Tones(tones, recipe(), 0).run(layers, Settings())
    assert result.folds[0].num_test == 5
    assert sorted(line.split(":")[0].split("/")[-1] for line in result.warnings) == [
        "test0.wav",
        "train3.wav",
    ]
    for path in tones.glob("valid*.wav"):
        path.unlink()
    with pytest.raises(ValueError, match=r"no file of split 'valid' can be used; the first: "):
        run(tones, layers, Settings())


def test_clips_without_frames_and_broken_features_are_left_out(tones, layers, monkeypatch):
    audio.write(tones / "train0.wav", np.full(20, 0.1, np.float32), 16_000)
    audio.write(tones / "test1.wav", np.full(20, 0.1, np.float32), 16_000)
    whole = layers.source.layers

    def broken(waveforms: Tensor, lengths: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        found, frames = whole(waveforms, lengths)
        for row, length in enumerate(lengths.tolist()):
            if length == 7_200:  # the longest clips
                found["0"][row, 0, 0] = torch.nan
        return found, frames

    monkeypatch.setattr(layers.source, "layers", broken)
    result = Tones(tones, recipe(), 0).run(layers, Settings())
    assert "train/0: too short for a frame" in result.warnings
    assert "test/1: too short for a frame" in result.warnings
    assert "test/3: its features hold NaN or infinite values" in result.warnings
    assert result.folds[0].num_test == 4
    assert all(np.isfinite(row["validation"]) for row in result.folds[0].grid)


def test_steps_without_a_finite_gradient_are_skipped(tones, layers):
    task = Tones(tones, recipe(lrs=[1e-2], steps=2, eval_every=2), 0)
    plain = task.loss

    def loss(head: nn.Module, outputs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
        broken = float("nan") if task.calls == 0 else 1.0
        return broken * plain(head, outputs, lengths, batch)

    task.loss = loss  # type: ignore[method-assign]
    result = task.run(layers, Settings())
    assert result.warnings == ["lr 0.01: 1 steps without a finite gradient were skipped"]


def test_batches_are_a_function_of_seed_and_epoch(tones):
    task = Tones(tones, recipe(), 0)
    assert task.train_batches(0) == Tones(tones, recipe(), 0).train_batches(0)
    assert task.train_batches(0) != task.train_batches(1)
    assert sorted(i for batch in task.train_batches(3) for i in batch) == list(range(14))
    stream, later = task.training_stream(0), task.training_stream(5)
    for _ in range(5):
        next(stream)
    for _ in range(3):
        (one, _), (other, _) = next(stream), next(later)
        assert one.utterances == other.utterances
        torch.testing.assert_close(one.waveforms, other.waveforms)


def test_crops():
    rng = np.random.default_rng(0)
    samples = np.arange(16_000, dtype=np.float32)
    crops = [random_crop(samples, 0.25, rng) for _ in range(50)]
    assert {len(crop) for crop in crops} == {4_000}
    assert min(crop[0] for crop in crops) < 2_000
    assert max(crop[-1] for crop in crops) > 14_000
    assert len(random_crop(samples, 2.0, rng)) == len(random_crop(samples, None, rng)) == 16_000
