"""The classifiers on frozen features that a probe chooses from, by name.

Each gives candidates: predictions of one layer under one setting. Which of them counts is decided
on valid (``classify``), so no head sees a label of valid or test, except that networks stop early
on valid.

Axes: N examples, D channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_audio.probes.hear.grid import Schedule, full_grid
from ssl_audio.probes.hear.training import predict, train_grid
from ssl_audio.probes.linear import LogisticPath, fit_logistic_path, principal_axes
from ssl_audio.probes.metrics.knn import knn_class_scores
from ssl_audio.probes.suite import SPLITS
from ssl_audio.probes.superb.featurizer import widened
from ssl_audio.probes.superb.linear_grid import (
    GridTraining,
    LabelledMeans,
    TrainedHead,
    train_linear_grid,
)

ALL_LAYERS = "all"  # every layer side by side
SUM = "sum"  # the learned weighted sum of layers
LAYER_WEIGHTS = "layer_weights"
SUPERB_TRAINING = GridTraining(  # SUPERB's own has up to 200,000 steps of one rate
    lrs=(1e-2, 3e-3, 1e-3, 3e-4), steps=400, eval_every=50, batch_size=32, hidden=256
)
HEAR_SCHEDULE = Schedule()  # HEAR's own
MAX_RANK = 2048  # side by side only where the smaller of examples and channels stays below this
MAX_NEIGHBOURS = 20
RIDGE_PENALTIES = tuple(10.0**power for power in range(-4, 3))  # relative to the mean variance
RIDGE_GAIN = 0.01
SHARE_FLOOR = 1e-6  # of a class without a vote, for its logarithm


class HeadSettings(NamedTuple):
    """Grid for scikit-learn's C of ``linear``, and iterations of its solver."""

    inverse_penalties: tuple[float, ...]
    max_iters: int


@dataclass(frozen=True, slots=True)
class TaskData:
    """Features of one task.

    Attributes:
        layers: name to split to (N, D) float32, standardised with train; in the source's order.
        targets: split to (N,) int64; -1 for a label that train does not show.
        num_classes: K.
        seed: of heads with random weights.
    """

    layers: Mapping[str, Mapping[str, Tensor]]
    targets: Mapping[str, np.ndarray]
    num_classes: int
    seed: int

    @property
    def last(self) -> str:
        return list(self.layers)[-1]

    def with_all(self) -> dict[str, Mapping[str, Tensor]]:
        """The layers and, where it stays small, all of them side by side."""
        width = sum(splits["train"].shape[1] for splits in self.layers.values())
        if len(self.layers) == 1 or min(width, len(self.targets["train"])) > MAX_RANK:
            return dict(self.layers)
        joined = {
            split: torch.cat([splits[split] for splits in self.layers.values()], dim=1)
            for split in SPLITS
        }
        return {**self.layers, ALL_LAYERS: joined}


class Candidate(NamedTuple):
    """One layer under one setting: ``valid`` and ``test()`` are logits (N, K)."""

    layer: str
    setting: dict[str, Any]
    valid: Tensor
    test: Callable[[], Tensor]


Head = Callable[[TaskData, HeadSettings], Iterator[Candidate]]


def linear(data: TaskData, settings: HeadSettings) -> Iterator[Candidate]:
    """Logistic regression for each penalty of the grid, on each layer and on all."""
    labels = torch.from_numpy(data.targets["train"])
    for layer, splits in data.with_all().items():
        path = fit_logistic_path(
            splits["train"],
            labels,
            data.num_classes,
            settings.inverse_penalties,
            max_iters=settings.max_iters,
        )
        valid = path.logits(splits["valid"])
        for index, value in enumerate(settings.inverse_penalties):

            def test(
                path: LogisticPath = path, index: int = index, rows: Tensor = splits["test"]
            ) -> Tensor:
                return path.logits(rows)[index]

            yield Candidate(layer, {"C": value}, valid[index], test)


def knn(data: TaskData, settings: HeadSettings) -> Iterator[Candidate]:
    """Votes of the nearest training clips by cosine, min(20, N / K) of them, on each layer."""
    labels = data.targets["train"]
    count = max(1, min(MAX_NEIGHBOURS, len(labels) // data.num_classes))
    for layer, splits in data.layers.items():

        def shares(split: str, splits: Mapping[str, Tensor] = splits) -> Tensor:
            votes = knn_class_scores(
                splits["train"].numpy(),
                labels,
                splits[split].numpy(),
                num_classes=data.num_classes,
                k=count,
            )
            return torch.from_numpy(votes).clamp(min=SHARE_FLOOR).log()

        yield Candidate(layer, {"k": count}, shares("valid"), partial(shares, "test"))


def ridge(data: TaskData, settings: HeadSettings) -> Iterator[Candidate]:
    """Least squares on the classes in closed form, its penalty by the error of leaving one out."""
    targets = F.one_hot(torch.from_numpy(data.targets["train"]), data.num_classes).float()
    mean = targets.mean(0)
    for layer, splits in data.with_all().items():
        penalty, weight = _ridge(splits["train"], targets - mean)

        def test(weight: Tensor = weight, rows: Tensor = splits["test"]) -> Tensor:
            return rows @ weight + mean

        yield Candidate(layer, {"penalty": penalty}, splits["valid"] @ weight + mean, test)


def _ridge(rows: Tensor, targets: Tensor) -> tuple[float, Tensor]:
    """The best penalty and its weight (D, K); both arguments are centred.

    A weaker penalty has to be better by ``RIDGE_GAIN``: with fewer examples than channels weak ones
    differ by rounding only.

    The residual of an example that is left out is e_i / (1 - h_ii) with the hat matrix H of all
    (Allen's PRESS), the intercept's 1/N included.
    """
    scores, axes, variances = principal_axes(rows)
    count = len(rows)
    projected = scores.T @ targets / count  # (R, K)
    scale = variances.mean()
    best: tuple[float, float, Tensor] | None = None
    for relative in reversed(RIDGE_PENALTIES):
        shrunk = 1 / (variances + relative * scale)
        weight = shrunk[:, None] * projected
        leverage = 1 / count + scores.square() @ shrunk / count
        left_out = (targets - scores @ weight) / (1 - leverage).clamp(min=1e-6)[:, None]
        error = float(left_out.square().mean())
        if best is None or error < (1 - RIDGE_GAIN) * best[0]:
            best = error, relative, weight
    assert best is not None
    return best[1], axes @ best[2]


def hear_mlp(data: TaskData, settings: HeadSettings) -> Iterator[Candidate]:
    """HEAR's shallow networks on the last layer, all 16 of the grid at once."""
    splits = data.layers[data.last]
    one_hot = {
        split: np.eye(data.num_classes + 1, dtype=np.uint8)[data.targets[split]][:, :-1]
        for split in ("train", "valid")
    }
    truth = data.targets["valid"]

    def validate(probabilities: np.ndarray, loss: float) -> tuple[float, None]:
        return float(np.mean(probabilities.argmax(1) == truth)), None

    tried = train_grid(
        full_grid(),
        (splits["train"], torch.from_numpy(one_hot["train"])),
        (splits["valid"], torch.from_numpy(one_hot["valid"])),
        validate,
        multilabel=False,
        schedule=HEAR_SCHEDULE,
        shuffle=True,
        seed=data.seed,
    )
    for trained in tried:

        def logits(split: str, trained: Any = trained) -> Tensor:
            shares = predict(trained, splits[split], data.num_classes, multilabel=False)
            return torch.from_numpy(shares).clamp(min=SHARE_FLOOR).log()

        point = trained.point
        setting = {"hidden_layers": point.hidden_layers, "lr": point.lr, "init": point.init}
        yield Candidate(data.last, setting, logits("valid"), partial(logits, "test"))


def superb_linear(data: TaskData, settings: HeadSettings) -> Iterator[Candidate]:
    """SUPERB's weighted sum of layers, Linear, Linear, for all learning rates at once.

    On the same standardised statistics as the other heads; layers narrower than the widest are
    padded with zeros, as in SUPERB's own tasks (``superb.layers``).
    """
    width = max(splits["train"].shape[1] for splits in data.layers.values())

    def means(split: str) -> Tensor:
        rows = [widened(splits[split], width) for splits in data.layers.values()]
        return torch.stack(rows, dim=1)

    train, valid = (
        LabelledMeans(means(split), torch.from_numpy(labels)[:, None], torch.ones(len(labels)))
        for split, labels in ((split, data.targets[split]) for split in ("train", "valid"))
    )
    training = replace(SUPERB_TRAINING, seed=data.seed)
    for trained in train_linear_grid(train, valid, [data.num_classes], training):

        def logits(rows: Tensor, trained: TrainedHead = trained) -> Tensor:
            with torch.no_grad():
                mixed = trained.featurizer(rows.transpose(0, 1))
                return trained.head(mixed[:, None], torch.ones(len(rows), dtype=torch.int64))

        shares = trained.featurizer.weights.tolist()
        setting: dict[str, Any] = {"lr": trained.lr, "step": trained.step}
        setting[LAYER_WEIGHTS] = dict(zip(data.layers, shares, strict=True))
        yield Candidate(SUM, setting, logits(valid.means), partial(logits, means("test")))


HEADS: Mapping[str, Head] = {
    "linear": linear,
    "knn": knn,
    "ridge": ridge,
    "superb_linear": superb_linear,
    "hear_mlp": hear_mlp,
}
