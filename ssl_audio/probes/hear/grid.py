"""The hyper-parameters that HEAR tries. Source: hear-eval-kit 2021.1.3, ``task_predictions.py``."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Init = Literal["xavier_uniform", "xavier_normal"]

GRID_SEED = 42
HEAREVAL_POINTS = 8  # how many of the shuffled grid the kit tries by default


@dataclass(frozen=True, slots=True)
class GridPoint:
    """One network and its training; defaults are the kit's."""

    hidden_layers: int
    lr: float
    init: Init
    hidden_dim: int = 1024
    dropout: float = 0.1


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long networks train; a task's metadata may change it.

    Attributes:
        max_epochs: upper limit.
        validate_every: epochs between validations.
        patience: validations without a better score after which a network stops.
        batch_size: examples, frames for events.
        halve_after: numbers of validations after which the worse half of the networks that are
            trained together stops (successive halving, Jamieson and Talwalkar,
            arXiv:1502.07943); empty lets each train to its own end.
    """

    max_epochs: int = 500
    validate_every: int = 3
    patience: int = 20
    batch_size: int = 1024
    halve_after: tuple[int, ...] = ()

    def changed_by(self, task_grid: Mapping[str, Sequence[Any]]) -> Schedule:
        """With the values that a task's ``task_specific_param_grid`` fixes."""
        names = {
            "max_epochs": "max_epochs",
            "check_val_every_n_epoch": "validate_every",
            "patience": "patience",
            "batch_size": "batch_size",
        }
        fixed = {
            ours: task_grid[theirs][0] for theirs, ours in names.items() if theirs in task_grid
        }
        return replace(self, **fixed)


def full_grid() -> list[GridPoint]:
    """All 16 points in the order of scikit-learn's ``ParameterGrid``."""
    inits: tuple[Init, ...] = ("xavier_uniform", "xavier_normal")
    return [
        GridPoint(layers, lr, init)
        for layers, init, lr in itertools.product((1, 2), inits, (3.2e-3, 1e-3, 3.2e-4, 1e-4))
    ]


def shuffled_grid() -> list[GridPoint]:
    """The 16 points in the kit's order; it tries the first ``HEAREVAL_POINTS``."""
    points = full_grid()
    random.Random(GRID_SEED).shuffle(points)
    return points
