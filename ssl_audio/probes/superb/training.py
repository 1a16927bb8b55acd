"""Trains the heads of a ``FrameTask``: one per learning rate, on shared encoder passes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_audio.files import replacing
from ssl_audio.probes.progress import with_bar
from ssl_audio.probes.superb.featurizer import Featurizer
from ssl_audio.probes.superb.frame_task import Batch, FrameTask
from ssl_audio.probes.superb.layers import LayerStack
from ssl_audio.probes.superb.task import FoldResult, Settings, TaskResult

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Probe(nn.Module):
    """Learned layer weights and a task's head."""

    def __init__(self, num_layers: int, head: nn.Module) -> None:
        super().__init__()
        self.featurizer = Featurizer(num_layers)
        self.head = head

    def forward(self, layers: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(L, B, T, D) and (B,) to the head's outputs and their lengths."""
        return self.head(self.featurizer(layers), lengths)


@dataclass(slots=True)
class Candidate:
    """One learning rate in training, and the best that validation has seen of it."""

    lr: float
    probe: Probe
    optimizer: torch.optim.Optimizer
    score: float = float("nan")
    step: int = 0
    tuned: Any = None
    state: dict[str, Tensor] = field(default_factory=dict)
    skipped: int = 0  # steps whose gradient was not finite

    def pack(self) -> dict[str, Any]:
        return {
            "probe": self.probe.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **{
                name: getattr(self, name) for name in ("score", "step", "tuned", "state", "skipped")
            },
        }

    def unpack(self, stored: dict[str, Any]) -> None:
        self.probe.load_state_dict(stored.pop("probe"))
        self.optimizer.load_state_dict(stored.pop("optimizer"))
        for name, value in stored.items():
            setattr(self, name, value)


def train_and_test(task: FrameTask, layers: LayerStack, settings: Settings) -> TaskResult:
    """Trains every learning rate, keeps the best validation of all, reads test once.

    A training that was killed goes on from its last validation. Everything depends on the seed
    only.

    Raises:
        ValueError: no file of a batch or of a split can be read.
    """
    steps, eval_every = settings.length_of(task.recipe)
    gpus = [settings.device] if torch.device(settings.device).type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        run = _Run(task, layers, settings)
        done = run.restored()
        stream = task.training_stream(done * task.recipe.accumulate)
        title = f"{type(task).__name__}: heads" if settings.progress else ""
        for step in with_bar(range(done + 1, steps + 1), title):
            run.step(step, stream)
            if step % eval_every == 0 or step == steps:
                run.validate(step)
                run.store(step)
        result = run.result()
        run.discard()
        return result


class _Run:
    def __init__(self, task: FrameTask, layers: LayerStack, settings: Settings) -> None:
        self.task, self.layers, self.settings = task, layers, settings
        recipe = task.recipe
        self.candidates = []
        for lr in recipe.lrs:
            torch.manual_seed(settings.seed)
            probe = Probe(len(layers.names), task.head(layers.dim, layers.frame_rate))
            probe.to(settings.device)
            optimizer = OPTIMIZERS[recipe.optimizer](probe.parameters(), lr=lr)
            self.candidates.append(Candidate(lr, probe, optimizer))
        on_test = task.selects_on_test and settings.protocol == "compat"
        self.selection = "test" if on_test else "valid"
        self.grid: list[dict[str, Any]] = []
        self.failures: dict[str, None] = {}

    def step(self, number: int, stream: Iterator[tuple[Batch | None, list[str]]]) -> None:
        """One update of every candidate."""
        recipe, used = self.task.recipe, 0
        for part in range(recipe.accumulate):
            batch, failures = next(stream)
            self.failures |= dict.fromkeys(failures)
            if batch is not None:
                used += self._backward(batch, number * recipe.accumulate + part)
        if not used:
            raise ValueError(
                f"no file of a batch can be used; the first: {next(iter(self.failures))}"
            )
        for candidate in self.candidates:
            norm = nn.utils.clip_grad_norm_(candidate.probe.parameters(), recipe.max_grad_norm)
            if bool(norm.isfinite()):
                candidate.optimizer.step()
            else:
                candidate.skipped += 1
            candidate.optimizer.zero_grad()

    def _backward(self, batch: Batch, number: int) -> int:
        """Adds the gradients of a batch; how many utterances had any."""
        used = 0
        for part, stacked, frames in self._parts(batch):
            share = len(part.utterances) / len(batch.utterances) / self.task.recipe.accumulate
            for candidate in self.candidates:
                torch.manual_seed(self.settings.seed + number)
                outputs, lengths = candidate.probe.train()(stacked, frames)
                loss = self.task.loss(candidate.probe.head, outputs, lengths, part)
                (share * loss).backward()
            used += len(part.utterances)
        return used

    def _parts(self, batch: Batch) -> Iterator[tuple[Batch, Tensor, Tensor]]:
        """Utterances with frames, (L, B, T, D) and (B,); usually all of the batch at once."""
        device = self.settings.device
        for rows, stacked, frames in self.layers.stacked(batch.waveforms, batch.lengths):
            finite = stacked.isfinite().all(3).all(2).all(0).cpu()
            usable = (frames.cpu() > 0) & finite
            utterances = batch.utterances[rows]
            for utterance, good, count in zip(utterances, usable, frames.tolist(), strict=True):
                if not good:
                    why = (
                        "its features hold NaN or infinite values"
                        if count
                        else "too short for a frame"
                    )
                    self.failures[f"{utterance.id}: {why}"] = None
            if not bool(usable.any()):
                continue
            kept = tuple(u for u, good in zip(utterances, usable, strict=True) if good)
            part = Batch(kept, batch.waveforms[rows][usable], batch.lengths[rows][usable])
            where = usable.to(stacked.device)
            yield part, stacked[:, where].to(device), frames[usable.to(frames.device)].to(device)

    @torch.no_grad()
    def predict(self, candidates: list[Candidate], split: str) -> list[dict[str, Any]]:
        """Predictions of each candidate by utterance id."""
        found: list[dict[str, Any]] = [{} for _ in candidates]
        for batch, failures in self.task.evaluation_stream(split):
            self.failures |= dict.fromkeys(failures)
            if batch is None:
                continue
            for part, stacked, frames in self._parts(batch):
                for candidate, predictions in zip(candidates, found, strict=True):
                    outputs, lengths = candidate.probe.eval()(stacked, frames)
                    values = self.task.predict(outputs, lengths, part)
                    ids = [utterance.id for utterance in part.utterances]
                    predictions |= zip(ids, values, strict=True)
        if not found[0]:
            why = f"; the first: {next(iter(self.failures))}" if self.failures else ""
            raise ValueError(f"no file of split {split!r} can be used{why}")
        return found

    def validate(self, step: int) -> None:
        """Scores every candidate and keeps its state if it is its best."""
        name, sign = self.task.criterion
        found = self.predict(self.candidates, self.selection)
        for candidate, predictions in zip(self.candidates, found, strict=True):
            tuned = self.task.tune(self.selection, predictions)
            score = self.task.evaluate(self.selection, predictions, tuned)[0][name]
            self.grid.append({"lr": candidate.lr, "step": step, "validation": score})
            if _rank(sign * score) > _rank(sign * candidate.score) or not candidate.state:
                candidate.score, candidate.step, candidate.tuned = score, step, tuned
                state = candidate.probe.state_dict()
                candidate.state = {name: x.detach().cpu().clone() for name, x in state.items()}

    def result(self) -> TaskResult:
        """Test of the best candidate at its best step."""
        task = self.task
        _, sign = task.criterion
        best = max(self.candidates, key=lambda candidate: _rank(sign * candidate.score))
        best.probe.load_state_dict(best.state)
        (predictions,) = self.predict([best], "test")
        scores, interval = task.evaluate("test", predictions, best.tuned)
        weights = best.probe.featurizer.weights.tolist()
        fold = FoldResult(
            scores,
            interval,
            chosen={"lr": best.lr, "step": best.step, "tuned": best.tuned, "on": self.selection},
            grid=self.grid,
            layer_weights=dict(zip(self.layers.names, weights, strict=True)),
            num_train=len(task.splits["train"]),
            num_test=len(predictions),
        )
        skipped = [
            f"lr {c.lr:g}: {c.skipped} steps without a finite gradient were skipped"
            for c in self.candidates
            if c.skipped
        ]
        return TaskResult([fold], [*self.failures, *skipped])

    def restored(self) -> int:
        """Takes up an earlier training that was killed; the step to go on from."""
        path = self._path()
        if path is None or not path.is_file():
            return 0
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError):
            path.unlink()  # cut off by a full disk, say
            return 0
        for candidate, packed in zip(self.candidates, stored["candidates"], strict=True):
            candidate.unpack(packed)
        self.grid, self.failures = stored["grid"], dict.fromkeys(stored["failures"])
        return int(stored["number"])

    def store(self, number: int) -> None:
        path = self._path()
        if path is None:
            return
        packed = [candidate.pack() for candidate in self.candidates]
        with replacing(path) as temporary:
            torch.save(
                {
                    "candidates": packed,
                    "grid": self.grid,
                    "failures": list(self.failures),
                    "number": number,
                },
                temporary,
            )

    def discard(self) -> None:
        """The record of the task stands for the training now."""
        path = self._path()
        if path is not None:
            path.unlink(missing_ok=True)

    def _path(self) -> Path | None:
        settings = self.settings
        if settings.cache_dir is None:
            return None
        parts = (
            type(self.task).__name__,
            self.task.recipe,
            self.layers.key,
            settings.protocol,
            settings.seed,
            settings.max_steps,
            sorted(self.task.splits.items()),
        )
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
        return settings.cache_dir / f"superb-training-{digest}.pt"


def _rank(score: float) -> float:
    """NaN below everything."""
    return -math.inf if math.isnan(score) else score
