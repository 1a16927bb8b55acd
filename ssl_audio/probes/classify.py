"""One probe: linear classifiers on frozen features, chosen on valid, read once on test.

Every source of features (trained, untrained, log-mel) goes through the same steps: standardise with
the training split, fit a multinomial logistic regression on each layer (and on all layers side by
side) for each penalty, keep the pair with the best valid accuracy, score it on test.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_audio.probes.features import PooledFeatures
from ssl_audio.probes.linear import Standardiser, fit_logistic_path
from ssl_audio.probes.metrics import accuracy, bootstrap_interval, macro_f1
from ssl_audio.probes.suite import SPLITS, Example, ProbeTask

ALL_LAYERS = "all"  # every layer side by side
MAX_RANK = 2048  # side by side only where the smaller of examples and channels stays below this


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """How probes are run; part of the key of cached results.

    Attributes:
        batch_sec: padded seconds of audio in a batch; small ones stay in a CPU's cache.
        max_clip_sec: longer clips are cut to their beginning.
        inverse_penalties: grid for scikit-learn's C.
        max_iters: of the solver, for each point of the grid.
    """

    batch_sec: float = 20.0
    max_clip_sec: float = 15.0
    inverse_penalties: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0)
    max_iters: int = 100

    def __post_init__(self) -> None:
        # A config gives lists and integers; equal settings must have equal cache keys.
        object.__setattr__(self, "inverse_penalties", tuple(map(float, self.inverse_penalties)))
        if not self.inverse_penalties or min(self.inverse_penalties) <= 0:
            raise ValueError(f"inverse_penalties must be positive, got {self.inverse_penalties}")


@dataclass(frozen=True, slots=True)
class ProbeScore:
    """Test accuracy of one task, how it was chosen and how sure it is.

    Attributes:
        value: test accuracy of the chosen layer and penalty.
        ci95: bootstrap interval of ``value`` over test clips.
        macro_f1: of the same predictions.
        majority: test accuracy of always answering the most frequent training label.
        layer: chosen; ``all`` is every layer side by side.
        inverse_penalty: chosen C.
        valid: valid accuracy of the choice.
        grid: valid accuracy by layer, one entry per penalty.
    """

    task: str
    unit: str
    value: float
    ci95: tuple[float, float]
    macro_f1: float
    majority: float
    layer: str
    inverse_penalty: float
    valid: float
    grid: Mapping[str, tuple[float, ...]]
    num_classes: int
    num_train: int
    num_valid: int
    num_test: int
    seconds: float
    metric: str = "accuracy"


@dataclass(frozen=True, slots=True)
class _Choice:
    layer: str
    penalty: int
    quality: tuple[float, float]  # accuracy on valid and, for equals, its negative cross-entropy
    predicted: np.ndarray  # class index of each test example


def run_probe(task: ProbeTask, features: PooledFeatures, settings: ProbeSettings) -> ProbeScore:
    """Fits, chooses and scores one task.

    Raises:
        ValueError: a task that cannot be probed (a split without features, a single class), or
            features that are not finite in every layer.
    """
    started = time.perf_counter()
    if task.problem is not None:
        raise ValueError(task.problem)
    examples: dict[str, list[Example]] = {}
    tables: dict[str, dict[str, Tensor]] = {}
    for split in SPLITS:
        examples[split], tables[split] = features.select(task, task.examples[split])
        if not examples[split]:
            raise ValueError(f"no features for split {split!r}: every clip of it failed")
    classes = sorted({example.label for example in examples["train"]})
    if len(classes) < 2:
        raise ValueError(f"split 'train' has only one class, {classes[0]!r}")
    targets = {split: _class_indices(examples[split], classes) for split in SPLITS}
    layers = {name: {split: tables[split][name] for split in SPLITS} for name in tables["train"]}
    choice, grid = _choose(layers, targets, len(classes), settings)

    correct = choice.predicted == targets["test"]
    majority = Counter(targets["train"].tolist()).most_common(1)[0][0]
    return ProbeScore(
        task=task.name,
        unit=task.unit,
        value=accuracy(choice.predicted, targets["test"]),
        ci95=bootstrap_interval(
            correct, [e.clip for e in examples["test"]], seed=zlib.crc32(task.name.encode())
        ),
        macro_f1=macro_f1(choice.predicted, targets["test"]),
        majority=float(np.mean(targets["test"] == majority)),
        layer=choice.layer,
        inverse_penalty=settings.inverse_penalties[choice.penalty],
        valid=choice.quality[0],
        grid=grid,
        num_classes=len(classes),
        num_train=len(examples["train"]),
        num_valid=len(examples["valid"]),
        num_test=len(examples["test"]),
        seconds=time.perf_counter() - started,
    )


def _choose(
    layers: dict[str, dict[str, Tensor]],
    targets: Mapping[str, np.ndarray],
    num_classes: int,
    settings: ProbeSettings,
) -> tuple[_Choice, dict[str, tuple[float, ...]]]:
    """The best (layer, penalty) on valid, and the valid accuracies of the whole grid."""
    layers = {name: splits for name, splits in layers.items() if _finite(splits)}
    if not layers:
        raise ValueError("the features hold NaN or infinite values in every layer")
    standardised = {name: _standardise(splits) for name, splits in layers.items()}
    width = sum(splits["train"].shape[1] for splits in standardised.values())
    if len(layers) > 1 and min(width, len(targets["train"])) <= MAX_RANK:
        standardised[ALL_LAYERS] = {
            split: torch.cat([splits[split] for splits in standardised.values()], dim=1)
            for split in SPLITS
        }
    labels = torch.from_numpy(targets["train"])
    best: _Choice | None = None
    grid: dict[str, tuple[float, ...]] = {}
    for name, splits in standardised.items():
        path = fit_logistic_path(
            splits["train"],
            labels,
            num_classes,
            settings.inverse_penalties,
            max_iters=settings.max_iters,
        )
        valid = path.logits(splits["valid"])
        scores = [accuracy(logits.argmax(-1).numpy(), targets["valid"]) for logits in valid]
        grid[name] = tuple(scores)
        for penalty, score in enumerate(scores):
            quality = (score, -_cross_entropy(valid[penalty], targets["valid"]))
            if best is None or quality > best.quality:
                test = path.logits(splits["test"])[penalty].argmax(-1).numpy()
                best = _Choice(name, penalty, quality, test)
    assert best is not None
    return best, grid


def _cross_entropy(logits: Tensor, targets: np.ndarray) -> float:
    """Mean over the examples (N, K) whose label training shows; 0 if there are none."""
    known = torch.from_numpy(targets) >= 0
    if not known.any():
        return 0.0
    return float(F.cross_entropy(logits[known], torch.from_numpy(targets)[known]))


def _standardise(splits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    standardiser = Standardiser.fit(splits["train"])
    return {split: standardiser(rows) for split, rows in splits.items()}


def _finite(splits: Mapping[str, Tensor]) -> bool:
    return all(bool(torch.isfinite(rows).all()) for rows in splits.values())


def _class_indices(examples: Sequence[Example], classes: Sequence[str]) -> np.ndarray:
    """(N,) int64; labels that training never shows become -1, which no prediction equals."""
    index = {label: i for i, label in enumerate(classes)}
    return np.array([index.get(example.label, -1) for example in examples], dtype=np.int64)
