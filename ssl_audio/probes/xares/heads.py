"""X-ARES' two heads and how their answers are scored.

Axes: N clips, R rows (crops or frames), D channels, C labels, T frames.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_audio.probes.metrics.knn import knn_class_scores
from ssl_audio.probes.metrics.scene import SCENE_SCORES
from ssl_audio.probes.metrics.xares import knn_as_published, segment_f1
from ssl_audio.probes.xares.data import Rows
from ssl_audio.probes.xares.task import Recipe

LEARNING_RATE, LAST_SHARE = 1e-3, 0.1  # Adam; a cosine leads to this share of it
NEIGHBOURS, TEMPERATURE = 10, 0.07


@dataclass(frozen=True, slots=True)
class Scorer:
    """The score of a task over clips; higher is better.

    Args:
        rows: what is scored.
        recipe: the task's.
        hop_ms: between frames.
        per_crop: crops count as clips, as xares 0.1.3 has it; else a clip's crops are averaged.
    """

    rows: Rows
    recipe: Recipe
    hop_ms: float
    per_crop: bool = False

    def __call__(self, probabilities: np.ndarray) -> float:
        """Of (R, C)."""
        return self._of(*self._clips(probabilities))

    def interval(
        self, probabilities: np.ndarray, seed: int, num_draws: int = 200
    ) -> tuple[float, float]:
        """95 % bootstrap interval over clips."""
        answers, targets = self._clips(probabilities)
        rng = np.random.default_rng(seed)
        chosen = rng.integers(len(answers), size=(num_draws, len(answers)))
        draws = [self._of(answers[rows], targets[rows]) for rows in chosen]
        low, high = np.nanquantile(draws, [0.025, 0.975])
        return float(low), float(high)

    def _of(self, answers: np.ndarray, targets: np.ndarray) -> float:
        metric, average = self.recipe.metric, self.recipe.metric.removeprefix("segment_f1_")
        if self.recipe.kind != "frames":
            name = "top1_acc" if metric == "accuracy" else metric
            return SCENE_SCORES[name](answers, targets)
        sec = self.recipe.segment_sec
        return segment_f1(answers, targets, hop_ms=self.hop_ms, segment_sec=sec, average=average)  # type: ignore[arg-type]

    def _clips(self, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, C) answers and targets of clips, or (N, T, C) of frames."""
        rows = self.rows
        if self.recipe.kind == "frames":
            return self._framed(probabilities > 0.5), self._framed(rows.targets)
        if self.per_crop:
            return probabilities, rows.targets
        starts = np.searchsorted(rows.clips, np.arange(rows.num_clips))
        counts = np.bincount(rows.clips)[:, None]
        return np.add.reduceat(probabilities, starts) / counts, rows.targets[starts]

    def _framed(self, active: np.ndarray) -> np.ndarray:
        """Whole segments of each clip, behind them frames without activity, which count nowhere."""
        size = math.ceil(self.recipe.segment_sec * 1000 / self.hop_ms)
        counts = np.bincount(self.rows.clips)
        out = np.zeros((len(counts), counts.max(), active.shape[1]), dtype=bool)
        first = 0
        for clip, count in enumerate(counts):
            whole = count - count % size
            out[clip, :whole] = active[first : first + whole]
            first += count
        return out


def linear_head(
    train: Rows,
    valid: Rows,
    recipe: Recipe,
    score: Callable[[np.ndarray], float],
    *,
    seed: int,
    device: torch.device | str = "cpu",
) -> tuple[Callable[[Rows], np.ndarray], float]:
    """LayerNorm and a linear layer, kept at the epoch that is best on valid.

    Adam, its learning rate on a cosine by epoch; a batch is so many crops, or the frames of so many
    clips. Source: xares 0.1.3, ``Trainer`` and ``Mlp``.

    Returns:
        Rows to (R, C) probabilities, and the score on valid.
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = train.x.to(device), torch.from_numpy(train.targets).to(device)
    head = _head(x.shape[1], y.shape[1], generator).to(device)
    adam = torch.optim.Adam(head.parameters(), LEARNING_RATE)
    items = _items(train, recipe)
    best, kept = -math.inf, copy.deepcopy(head.state_dict())
    for epoch in range(recipe.epochs):
        turn = (1 - math.cos(math.pi * epoch / recipe.epochs)) / 2
        adam.param_groups[0]["lr"] = LEARNING_RATE * (1 - (1 - LAST_SHARE) * turn)
        for batch in torch.randperm(len(items), generator=generator).split(recipe.batch_size):
            rows = torch.cat([items[index] for index in batch.tolist()]).to(device)
            adam.zero_grad(set_to_none=True)
            _loss(head(x[rows]), y[rows], recipe).backward()
            adam.step()
        found = score(_answers(head, valid, recipe))
        if found > best:
            best, kept = found, copy.deepcopy(head.state_dict())
    head.load_state_dict(kept)
    return lambda rows: _answers(head, rows, recipe), best


def nearest_neighbours(train: Rows, test: Rows, *, as_published: bool) -> np.ndarray:
    """(R, C) shares of the 10 nearest training rows.

    Args:
        as_published: normalise the training rows along the wrong axis, as xares 0.1.3.
    """
    votes = knn_as_published if as_published else knn_class_scores
    return votes(
        train.x.numpy(),
        train.targets.argmax(1),
        test.x.numpy(),
        num_classes=train.targets.shape[1],
        k=NEIGHBOURS,
        temperature=TEMPERATURE,
    )


def _head(features: int, classes: int, generator: torch.Generator) -> nn.Sequential:
    linear = nn.Linear(features, classes)
    with torch.no_grad():  # PyTorch's default, from a generator of its own
        for parameter in linear.parameters():
            limit = 1 / math.sqrt(features)
            parameter.uniform_(-limit, limit, generator=generator)
    return nn.Sequential(nn.LayerNorm(features), linear)


def _items(rows: Rows, recipe: Recipe) -> list[Tensor] | tuple[Tensor, ...]:
    """Rows that stay together: single crops, or all frames of a clip."""
    every = torch.arange(len(rows.x))
    if recipe.kind != "frames":
        return every.split(1)
    return every.split(np.bincount(rows.clips).tolist())


def _loss(logits: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
    if recipe.kind == "clip":
        return functional.cross_entropy(logits, targets.argmax(1))
    weight = torch.tensor(recipe.positive_weight, device=logits.device)
    return functional.binary_cross_entropy_with_logits(logits, targets.float(), pos_weight=weight)


@torch.no_grad()
def _answers(head: nn.Module, rows: Rows, recipe: Recipe) -> np.ndarray:
    device = next(head.parameters()).device
    logits = torch.cat([head(part.to(device)) for part in rows.x.split(16384)])
    answers = logits.softmax(1) if recipe.kind == "clip" else logits.sigmoid()
    return answers.cpu().numpy()
