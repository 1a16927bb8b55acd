"""What a SUPERB task is to the runner, and the records that tasks share.

``run.py`` opens every task that the table of ``configs/probe/superb.yaml`` names and calls
``run``. Three ways to provide one:

- ``PooledTask`` (``pooled_task.py``): utterances with labels; the head is linear, so the layers'
  means over time are all it needs (KS, IC, ER, SID).
- ``FrameTask`` (``frame_task.py``): a head over frames, trained live (PR, ASR, SF, SD, SE, SS,
  ASV).
- ``SuperbTask`` itself: anything else (QbE, which trains nothing).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from ssl_audio.probes.superb.layers import LayerStack

ProtocolName = Literal["ours", "compat"]
PROTOCOLS: tuple[ProtocolName, ...] = ("ours", "compat")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One file, or a stretch of one.

    Attributes:
        id: unique within a task.
        path: of the file.
        target: what the task makes of it: classes, tokens, segments, another path.
        start_sec, duration_sec: the stretch; None reads to the end.
        max_sec: longer ones are cut at random to this (see the task's class).
    """

    id: str
    path: Path
    target: Any = None
    start_sec: float = 0.0
    duration_sec: float | None = None
    max_sec: float | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """One row of the table.

    Attributes:
        folder: with the original data, below the root.
        lrs: learning rates to choose from on valid.
        steps, eval_every: optimizer steps, and after how many valid is scored.
        batch_size, accumulate: utterances in a batch, batches in a step.
        optimizer: "adam" or "adamw".
        max_grad_norm: gradients are clipped to this norm.
        options: numbers that only this task has.
    """

    folder: str
    lrs: tuple[float, ...] = ()
    steps: int = 0
    eval_every: int = 0
    batch_size: int = 32
    accumulate: int = 1
    optimizer: Literal["adam", "adamw"] = "adam"
    max_grad_norm: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Recipe:
        """From a row of the table; keys that are no field become options."""
        own = {name: row[name] for name in cls.__slots__ if name in row and name != "options"}
        own["lrs"] = tuple(map(float, row.get("lrs", ())))
        options = {name: value for name, value in row.items() if name not in cls.__slots__}
        return cls(**own, options=options)


@dataclass(frozen=True, slots=True)
class Settings:
    """How all tasks are run.

    Attributes:
        protocol: "ours", where validation chooses and test is read once, or "compat", s3prl's
            habits: frames matched to its length rule, and ASV and SD choose on test.
        seed: of weights, orders and crops.
        device: where heads train.
        cache_dir: keeps layer means and unfinished trainings; None keeps none.
        batch_sec: padded seconds in a batch where the task does not fix its size.
        max_steps: caps every recipe's steps, for a quick look.
        progress: show bars.
    """

    protocol: ProtocolName = "ours"
    seed: int = 0
    device: str = "cpu"
    cache_dir: Path | None = None
    batch_sec: float = 60.0
    max_steps: int | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {self.max_steps}")

    def length_of(self, recipe: Recipe) -> tuple[int, int]:
        """Steps, and steps between validations."""
        steps = min(recipe.steps, self.max_steps or recipe.steps)
        return steps, min(recipe.eval_every, steps)


@dataclass(frozen=True, slots=True)
class FoldResult:
    """Test of one fold, and how its head was chosen.

    Attributes:
        scores: by name, the primary one among them.
        interval: 95 % bootstrap interval of the primary score.
        chosen: learning rate, step, and what else validation chose.
        grid: validation score of everything that was tried.
        layer_weights: by layer, after the softmax; empty where none are learned.
        num_train, num_test: utterances.
    """

    scores: Mapping[str, float]
    interval: tuple[float, float]
    chosen: Mapping[str, Any]
    grid: list[dict[str, Any]]
    layer_weights: Mapping[str, float]
    num_train: int
    num_test: int


@dataclass(frozen=True, slots=True)
class TaskResult:
    """All folds, and one line for each file left out or other thing to know."""

    folds: list[FoldResult]
    warnings: list[str] = field(default_factory=list)


class SuperbTask(ABC):
    """One task on its data.

    Attributes:
        metric: name of the primary score among ``FoldResult.scores``, a fraction unless ``scale``
            says otherwise.
        higher_is_better: of the primary score.
        scale: factor to what people print: 100 for percent, 1 for decibels.
        recipe, seed: as they were given.

    Args:
        folder: with the original data; read here.
        recipe: the task's row of the table.

    Raises:
        ValueError: data that are missing or cannot be used: one line with what is expected where.
    """

    metric: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    scale: ClassVar[float] = 100.0
    recipe: Recipe
    seed: int

    @abstractmethod
    def __init__(self, folder: Path, recipe: Recipe, seed: int) -> None: ...

    @abstractmethod
    def run(self, layers: LayerStack, settings: Settings) -> TaskResult:
        """Trains, chooses and tests."""


def needed(path: Path, archive: str) -> Path:
    """``path``, if it is there.

    Raises:
        ValueError: it is not; names the archive to unpack.
    """
    if not path.exists():
        raise ValueError(f"{path} is missing; unpack {archive} there")
    return path
