"""Tasks whose head is linear: layer means once, then the whole grid in one program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssl_audio.probes.metrics.classification import ratio_interval
from ssl_audio.probes.superb.layers import LayerStack
from ssl_audio.probes.superb.linear_grid import (
    GridTraining,
    LabelledMeans,
    train_linear_grid,
)
from ssl_audio.probes.superb.means import layer_means
from ssl_audio.probes.superb.task import (
    FoldResult,
    Settings,
    SuperbTask,
    TaskResult,
    Utterance,
)


class Fold(NamedTuple):
    """Utterances whose ``target`` is a tuple of labels, one for each slot."""

    train: Sequence[Utterance]
    valid: Sequence[Utterance]
    test: Sequence[Utterance]


class PooledTask(SuperbTask):
    """Linear, mean over time, Linear, for one or more slots of classes.

    Subclasses set ``recipe``, ``seed`` and ``folds`` when they are made. An utterance counts as
    right when all of its slots are.

    Attributes:
        balanced: classes are drawn equally often in training and count equally on valid.
        gain_db: applied to the audio.
    """

    metric = "acc"
    balanced: ClassVar[bool] = False
    gain_db: ClassVar[float] = 0.0
    folds: Sequence[Fold]

    def run(self, layers: LayerStack, settings: Settings) -> TaskResult:
        """The mean of each layer over time, then each fold."""
        everyone = {u.id: u for fold in self.folds for split in fold for u in split}
        found, failures = layer_means(layers, list(everyone.values()), settings, self.gain_db)
        return TaskResult(
            [self._fold(fold, found, layers, settings) for fold in self.folds], failures
        )

    def _fold(
        self, fold: Fold, found: dict[str, Tensor], layers: LayerStack, settings: Settings
    ) -> FoldResult:
        kept = Fold(*([u for u in split if u.id in found] for split in fold))
        for name, split in kept._asdict().items():
            if not split:
                raise ValueError(f"no file of split {name!r} can be used")
        classes = [
            sorted(set(labels)) for labels in zip(*(u.target for u in kept.train), strict=True)
        ]
        if all(len(labels) < 2 for labels in classes):
            raise ValueError(f"split 'train' has only one class, {classes[0][0]!r}")
        slots = [len(labels) for labels in classes]
        train, valid = (
            LabelledMeans(_stacked(found, split), _indices(split, classes), self._weights(split))
            for split in (kept.train, kept.valid)
        )
        steps, eval_every = settings.length_of(self.recipe)
        training = GridTraining(
            lrs=self.recipe.lrs,
            steps=steps,
            eval_every=eval_every,
            batch_size=self.recipe.batch_size * self.recipe.accumulate,
            hidden=int(self.recipe.options["hidden"]),
            max_grad_norm=self.recipe.max_grad_norm,
            seed=settings.seed,
            device=settings.device,
            progress=f"{type(self).__name__}: heads" if settings.progress else "",
        )
        heads = train_linear_grid(train, valid, slots, training)
        best = max(heads, key=lambda head: head.score)
        predicted = best.predict(_stacked(found, kept.test), slots)
        hits = (predicted == _indices(kept.test, classes)).all(-1).double().numpy()
        weights = best.featurizer.weights.tolist()
        return FoldResult(
            scores={self.metric: float(hits.mean())},
            interval=ratio_interval(hits, np.ones_like(hits), seed=self.seed),
            chosen={"lr": best.lr, "step": best.step},
            grid=[
                {"lr": head.lr, "step": step, "validation": score}
                for head in heads
                for step, score in head.history
            ],
            layer_weights=dict(zip(layers.names, weights, strict=True)),
            num_train=len(kept.train),
            num_test=len(kept.test),
        )

    def _weights(self, split: Sequence[Utterance]) -> Tensor:
        if not self.balanced:
            return torch.ones(len(split))
        counts = Counter(utterance.target for utterance in split)
        return torch.tensor([1 / counts[utterance.target] for utterance in split])


def _stacked(found: dict[str, Tensor], split: Sequence[Utterance]) -> Tensor:
    return torch.stack([found[utterance.id] for utterance in split])


def _indices(split: Sequence[Utterance], classes: Sequence[Sequence[str]]) -> Tensor:
    """(N, S) classes, -1 for labels that train does not show."""
    index = [{label: i for i, label in enumerate(labels)} for labels in classes]
    rows = [
        [known.get(label, -1) for known, label in zip(index, u.target, strict=True)] for u in split
    ]
    return torch.tensor(rows, dtype=torch.int64)
