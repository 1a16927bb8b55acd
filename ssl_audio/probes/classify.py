"""One probe: a classifier on frozen features, chosen on valid, read once on test.

Every source of features (trained, untrained, log-mel) goes through the same steps: standardise
with the training split, fit a head (``heads``) on each layer and under each setting of its grid,
keep the candidate that is best on valid, score it on test.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_audio.probes.boundary_task import THRESHOLDS, count_hits, f1_interval, f1_score
from ssl_audio.probes.features import PooledFeatures
from ssl_audio.probes.heads import HEADS, Candidate, HeadSettings, TaskData
from ssl_audio.probes.linear import Standardiser
from ssl_audio.probes.metrics import accuracy, bootstrap_interval, macro_f1
from ssl_audio.probes.sources import Patches
from ssl_audio.probes.suite import SPLITS, Example, ProbeTask

LINEAR, BOUNDARIES = "linear", "boundaries"
PROBES = (*HEADS, BOUNDARIES)


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """How probes are run; part of the key of cached results.

    Attributes:
        batch_sec: padded seconds of audio in a batch; small ones stay in a CPU's cache.
        max_clip_sec: longer clips are cut to their beginning.
        inverse_penalties: grid for scikit-learn's C.
        max_iters: of the solver, for each point of the grid.
        patches: what a frame of an encoder of patches is, see ``EncoderLayers``.
    """

    batch_sec: float = 20.0
    max_clip_sec: float = 15.0
    inverse_penalties: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0)
    max_iters: int = 100
    patches: Patches = "concat"

    def __post_init__(self) -> None:
        # A config gives lists and integers; equal settings must have equal cache keys.
        object.__setattr__(self, "inverse_penalties", tuple(map(float, self.inverse_penalties)))
        if not self.inverse_penalties or min(self.inverse_penalties) <= 0:
            raise ValueError(f"inverse_penalties must be positive, got {self.inverse_penalties}")

    @property
    def heads(self) -> HeadSettings:
        return HeadSettings(self.inverse_penalties, self.max_iters)


@dataclass(frozen=True, slots=True)
class ProbeScore:
    """Test score of one task, how it was chosen and how sure it is.

    Attributes:
        probe: the head, a name of ``HEADS``, or "boundaries".
        value: test accuracy (F1 of boundaries) of the chosen layer and setting.
        ci95: bootstrap interval of ``value`` over test clips.
        macro_f1: of the same predictions; None for boundaries.
        majority: test accuracy of always answering the most frequent training label; None for
            boundaries.
        layer: chosen; ``all`` is every layer side by side.
        chosen: the setting.
        valid: valid score of the choice.
        grid: valid score by layer, one entry per setting.
    """

    task: str
    unit: str
    probe: str
    metric: str
    value: float
    ci95: tuple[float, float]
    macro_f1: float | None
    majority: float | None
    layer: str
    chosen: Mapping[str, Any]
    valid: float
    grid: Mapping[str, Sequence[float]]
    num_classes: int
    num_train: int
    num_valid: int
    num_test: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Choice:
    candidate: Candidate
    quality: tuple[float, float]  # on valid, and what decides between equals
    threshold: float  # of boundaries
    grid: dict[str, list[float]]


# Logits on valid to a score, what decides between equals, and a threshold.
_Judge = Callable[[Tensor], tuple[float, float, float]]


def run_probe(
    task: ProbeTask, features: PooledFeatures, settings: ProbeSettings, probe: str = LINEAR
) -> ProbeScore:
    """Fits, chooses and scores one task.

    Args:
        probe: a name of ``HEADS``; "boundaries" for a boundary task.

    Raises:
        ValueError: a task that cannot be probed (a split without features, a single class), or
            features that are not finite in every layer.
    """
    started = time.perf_counter()
    assert (probe == BOUNDARIES) == (task.unit == "boundary")
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
    layers = {name: {split: tables[split][name] for split in SPLITS} for name in tables["train"]}
    layers = {name: _standardise(splits) for name, splits in layers.items() if _finite(splits)}
    if not layers:
        raise ValueError("the features hold NaN or infinite values in every layer")
    data = TaskData(
        layers,
        {split: _class_indices(examples[split], classes) for split in SPLITS},
        len(classes),
        seed=zlib.crc32(task.name.encode()),
    )
    judge = _boundary_judge(examples["valid"]) if probe == BOUNDARIES else _class_judge(data)
    candidates = HEADS[LINEAR if probe == BOUNDARIES else probe](data, settings.heads)
    choice = _choose(candidates, judge)
    logits = choice.candidate.test()
    if probe == BOUNDARIES:
        scored = _boundary_scores(logits, choice.threshold, examples["test"], data.seed)
    else:
        scored = _class_scores(logits, data, examples["test"])
    threshold = {"threshold": choice.threshold} if probe == BOUNDARIES else {}
    return ProbeScore(
        task=task.name,
        unit=task.unit,
        probe=probe,
        **scored,
        layer=choice.candidate.layer,
        chosen={**choice.candidate.setting, **threshold},
        valid=choice.quality[0],
        grid=choice.grid,
        num_classes=len(classes),
        num_train=len(examples["train"]),
        num_valid=len(examples["valid"]),
        num_test=len(examples["test"]),
        seconds=time.perf_counter() - started,
    )


def _choose(candidates: Iterable[Candidate], judge: _Judge) -> _Choice:
    """The best candidate on valid, and the valid scores of all by layer."""
    best: _Choice | None = None
    grid: dict[str, list[float]] = {}
    for candidate in candidates:
        score, tie, threshold = judge(candidate.valid)
        grid.setdefault(candidate.layer, []).append(score)
        if best is None or (score, tie) > best.quality:
            best = _Choice(candidate, (score, tie), threshold, grid)
    assert best is not None
    return best


def _class_judge(data: TaskData) -> _Judge:
    targets = data.targets["valid"]

    def judge(logits: Tensor) -> tuple[float, float, float]:
        score = accuracy(logits.argmax(-1).numpy(), targets)
        return score, -_cross_entropy(logits, targets), 0.0

    return judge


def _class_scores(logits: Tensor, data: TaskData, examples: Sequence[Example]) -> dict[str, Any]:
    predicted, targets = logits.argmax(-1).numpy(), data.targets["test"]
    majority = Counter(data.targets["train"].tolist()).most_common(1)[0][0]
    return {
        "metric": "accuracy",
        "value": accuracy(predicted, targets),
        "ci95": bootstrap_interval(
            predicted == targets, [e.clip for e in examples], seed=data.seed
        ),
        "macro_f1": macro_f1(predicted, targets),
        "majority": float(np.mean(targets == majority)),
    }


def _boundary_judge(examples: Sequence[Example]) -> _Judge:
    """F1 on valid at the best threshold; of equal ones the highest."""

    def judge(logits: Tensor) -> tuple[float, float, float]:
        shares = logits.softmax(-1)[:, 0].numpy()
        scores = [(f1_score(count_hits(shares, examples, t)[1]), t) for t in THRESHOLDS]
        score, threshold = max(scores)
        return score, 0.0, threshold

    return judge


def _boundary_scores(
    logits: Tensor, threshold: float, examples: Sequence[Example], seed: int
) -> dict[str, Any]:
    _, counts = count_hits(logits.softmax(-1)[:, 0].numpy(), examples, threshold)
    return {
        "metric": "f1_20ms",
        "value": f1_score(counts),
        "ci95": f1_interval(counts, seed),
        "macro_f1": None,
        "majority": None,
    }


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
