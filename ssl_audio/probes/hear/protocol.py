"""One HEAR task from embeddings to scores: splits, grid, choice, test.

``heareval`` keeps the habits of hear-eval-kit 2021.1.3; ``ours`` mends them. Axes: N clips or
frames, D features, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssl_audio.probes.hear.grid import (
    HEAREVAL_POINTS,
    GridPoint,
    Schedule,
    full_grid,
    shuffled_grid,
)
from ssl_audio.probes.hear.scoring import (
    POSTPROCESSING_GRID,
    EventScorer,
    FileFrames,
    PostProcessing,
    SceneScorer,
    Scorer,
)
from ssl_audio.probes.hear.training import Trained, predict, train_grid
from ssl_audio.probes.metrics.events import EventsOf

ProtocolName = Literal["ours", "heareval"]
PROTOCOLS: tuple[ProtocolName, ...] = ("ours", "heareval")
# Validations: a third of the epochs, and a winner as good on eight tasks (docs/hear.md).
HALVE_AFTER = (5, 10)
BOOTSTRAP_DRAWS = 200
NORMAL_95 = 1.96


class DataSplit(NamedTuple):
    """Names of the splits or folds of one rotation."""

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One split or fold.

    Attributes:
        x: (N, D) float32.
        targets: (N, C) uint8, 0 or 1.
        files: of events; empty for scenes.
        events: reference by file name.
    """

    x: Tensor
    targets: np.ndarray
    files: tuple[FileFrames, ...] = ()
    events: EventsOf = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Problem:
    """What a task asks, apart from its data.

    Attributes:
        labels: C names.
        scores: names of the task's scores, the primary one first.
        multilabel: a clip or frame may have any number of labels.
        is_event: frames that become events, instead of clips.
        postprocessing: values to choose from on valid.
        schedule: length of training.
        select_on_loss: choose epochs and points by the loss on valid instead of the primary score.
    """

    labels: tuple[str, ...]
    scores: tuple[str, ...]
    multilabel: bool
    is_event: bool = False
    postprocessing: Mapping[str, Sequence[float]] = field(
        default_factory=lambda: dict(POSTPROCESSING_GRID)
    )
    schedule: Schedule = field(default_factory=Schedule)
    select_on_loss: bool = False


@dataclass(frozen=True, slots=True)
class FoldScore:
    """One rotation.

    Attributes:
        test: scores by name.
        validation: what the choice was made by, as it is written (a loss: its negative).
        chosen: hyper-parameters, epoch and post-processing of the winner.
        grid: validation score and epoch of every point that was tried.
        interval: 95 % bootstrap interval of the primary score over test clips or files.
        num_train, num_test: examples, frames of events.
    """

    test: dict[str, float]
    validation: float
    chosen: dict[str, Any]
    grid: list[dict[str, Any]]
    interval: tuple[float, float]
    num_train: int
    num_test: int


def data_splits(folds: Sequence[str], split_mode: str) -> list[DataSplit]:
    """The rotations of a task.

    ``trainvaltest`` has one. The k-fold modes test each fold once, in the order of their names; the
    fold after it (cyclic) validates and the others train.

    Raises:
        ValueError: an unknown mode, a split that is missing, or fewer than three folds.
    """
    if split_mode == "trainvaltest":
        missing = {"train", "valid", "test"} - set(folds)
        if missing:
            raise ValueError(f"split {min(missing)!r} is missing; there are {', '.join(folds)}")
        return [DataSplit(("train",), ("valid",), ("test",))]
    if not split_mode.endswith("kfold"):
        raise ValueError(f"split_mode {split_mode!r}; use trainvaltest or a kfold mode")
    names = sorted(folds)
    if len(names) < 3:
        raise ValueError(f"{len(names)} folds; at least three are needed")
    rotations = []
    for number, test in enumerate(names):
        valid = names[(number + 1) % len(names)]
        train = tuple(name for name in names if name not in (test, valid))
        rotations.append(DataSplit(train, (valid,), (test,)))
    return rotations


def aggregate(results: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """``NAME_mean`` of every score, and ``NAME_std`` (of the sample) where there are folds."""
    summary = {}
    for name in results[0]:
        values = np.array([result[name] for result in results], dtype=np.float64)
        summary[f"{name}_mean"] = float(values.mean())
        if len(values) > 1:
            summary[f"{name}_std"] = float(values.std(ddof=1))
    return summary


def over_folds(
    scores: Sequence[Mapping[str, float]],
    intervals: Sequence[tuple[float, float]],
    primary: str,
) -> dict[str, Any]:
    """``value`` of the primary score, its ``ci95`` (of a single fold its own), all ``scores``."""
    summary = aggregate(scores)
    value, interval = summary[f"{primary}_mean"], intervals[0]
    if len(intervals) > 1:
        half = NORMAL_95 * summary[f"{primary}_std"] / math.sqrt(len(intervals))
        interval = value - half, value + half
    return {"value": value, "ci95": interval, "scores": summary}


def run_rotations(
    problem: Problem,
    data: Mapping[str, Embeddings],
    rotations: Sequence[DataSplit],
    *,
    protocol: ProtocolName,
    seed: int = 42,
    device: torch.device | str = "cpu",
    bf16: bool = False,
) -> list[FoldScore]:
    """Trains and tests every rotation.

    ``heareval`` tries the first 8 points of its grid on the first rotation and uses the winner for
    the others, does not shuffle or standardise, and ends events at their last frame. ``ours`` tries
    all 16 points on each rotation, of which the worse half of each depth stops after 5 and after 10
    validations, shuffles, standardises with the statistics of train and ends events behind their
    last frame.

    Raises:
        ValueError: an unknown protocol, or data that cannot be trained on.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; use {' or '.join(PROTOCOLS)}")
    points = full_grid() if protocol == "ours" else shuffled_grid()[:HEAREVAL_POINTS]
    scores: list[FoldScore] = []
    for rotation in rotations:
        train, valid, test = (joined([data[name] for name in names]) for names in rotation)
        winner, score = _run(problem, train, valid, test, points, protocol, seed, device, bf16)
        scores.append(score)
        if protocol == "heareval":
            points = [winner]
    return scores


def joined(parts: Sequence[Embeddings]) -> Embeddings:
    """Folds one after the other."""
    if len(parts) == 1:
        return parts[0]
    files: list[FileFrames] = []
    events: dict[str, Any] = {}
    first = 0
    for part in parts:
        for file in part.files:
            start, stop = first + file.start, first + file.stop
            files.append(FileFrames(file.name, start, stop, file.timestamps_ms))
        events |= part.events
        first += len(part.x)
    return Embeddings(
        torch.cat([part.x for part in parts]),
        np.concatenate([part.targets for part in parts]),
        tuple(files),
        events,
    )


def _run(
    problem: Problem,
    train: Embeddings,
    valid: Embeddings,
    test: Embeddings,
    points: Sequence[GridPoint],
    protocol: ProtocolName,
    seed: int,
    device: torch.device | str,
    bf16: bool,
) -> tuple[GridPoint, FoldScore]:
    _check(problem, train, valid, test)
    inputs, schedule = [part.x for part in (train, valid, test)], problem.schedule
    if protocol == "ours":
        schedule = replace(schedule, halve_after=HALVE_AFTER)
        mean, std = train.x.mean(0), train.x.std(0, correction=0).clamp_min(1e-8)
        inputs = [(x - mean) / std for x in inputs]
    train_x, valid_x, test_x = (x.to(device) for x in inputs)
    train_y, valid_y = (torch.from_numpy(part.targets).to(device) for part in (train, valid))
    on_valid, on_test = (_scorer(problem, part, protocol) for part in (valid, test))

    def validate(probabilities: np.ndarray, loss: float) -> tuple[float, PostProcessing]:
        score, choice = on_valid.best(probabilities)
        return (-loss if problem.select_on_loss else score), choice

    tried = train_grid(
        points,
        (train_x, train_y),
        (valid_x, valid_y),
        validate,
        multilabel=problem.multilabel,
        schedule=schedule,
        shuffle=protocol == "ours",
        seed=seed,
        bf16=bf16,
    )
    winner = max(tried, key=lambda trained: trained.score)
    predicted = predict(winner, test_x, len(problem.labels), problem.multilabel)
    score = FoldScore(
        test=on_test.all(predicted, winner.choice),
        validation=winner.score,
        chosen={**_described(winner), "postprocessing": winner.choice},
        grid=[_described(trained) for trained in tried],
        interval=_interval(on_test, predicted, winner.choice, problem.scores[0], seed),
        num_train=len(train.x),
        num_test=len(test.x),
    )
    return winner.point, score


def _check(problem: Problem, train: Embeddings, valid: Embeddings, test: Embeddings) -> None:
    for name, part in (("train", train), ("valid", valid), ("test", test)):
        if not len(part.x):
            raise ValueError(f"split {name!r} has no usable example")
        if not bool(torch.isfinite(part.x).all()):
            raise ValueError(f"embeddings of split {name!r} hold NaN or infinite values")
    if not problem.multilabel and len(np.unique(train.targets.argmax(1))) < 2:
        label = problem.labels[int(train.targets[0].argmax())]
        raise ValueError(f"split 'train' has only one class, {label!r}")


def _scorer(problem: Problem, data: Embeddings, protocol: ProtocolName) -> Scorer:
    if not problem.is_event:
        return SceneScorer(problem.scores, data.targets)
    return EventScorer(
        problem.scores,
        data.files,
        data.events,
        problem.labels,
        problem.postprocessing,
        whole_last_frame=protocol == "ours",
    )


def _described(trained: Trained[PostProcessing]) -> dict[str, Any]:
    point = trained.point
    return {
        "hidden_layers": point.hidden_layers,
        "lr": point.lr,
        "init": point.init,
        "epoch": trained.epoch,
        "validation": trained.score,
    }


def _interval(
    scorer: Scorer, predicted: np.ndarray, choice: PostProcessing, name: str, seed: int
) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    draws = [scorer.resampled(rng).all(predicted, choice)[name] for _ in range(BOOTSTRAP_DRAWS)]
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)
