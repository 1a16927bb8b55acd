"""One X-ARES task: its tars, their labels, and which of them train, choose and test."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ssl_audio.probes.hear.protocol import DataSplit, data_splits
from ssl_audio.probes.metrics.events import Event
from ssl_audio.probes.xares.tars import Sample, read_tars

ProtocolName = Literal["ours", "compat"]
PROTOCOLS: tuple[ProtocolName, ...] = ("ours", "compat")
Kind = Literal["clip", "multilabel", "frames"]
HELD_OUT = 10  # one train sample of so many validates, where X-ARES lets test do it


@dataclass(frozen=True, slots=True)
class Recipe:
    """A row of ``configs/probe/xares.yaml``.

    Attributes:
        label: key of the JSON; of frames, of each of its events.
        classes: how many labels there are.
        weight: in the average over tasks.
        zenodo: record that holds the tars.
        kind: one label a clip, several (separated by ";"), or events whose labels may be several
            too (separated by ",").
        train, valid, test: patterns of tars.
        folds, fold_names: instead of them, one pattern with a place for the name of a fold.
        metric: "accuracy", "mAP", "segment_f1_micro" or "segment_f1_macro".
        segment_sec: of the segment F1.
        start, end: keys of an event's times in seconds.
        crop_sec: clips are cut into stretches of this length.
        positive_weight: of active labels in the loss of frames.
        epochs, batch_size: of the linear head.
        knn: whether k-NN is scored too.
    """

    label: str
    classes: int
    weight: float
    zenodo: int
    kind: Kind = "clip"
    train: str = ""
    valid: str = ""
    test: str = ""
    folds: str = ""
    fold_names: Sequence[str] = ()
    metric: str = "accuracy"
    segment_sec: float = 1.0
    start: str = ""
    end: str = ""
    crop_sec: float | None = None
    positive_weight: float = 1.0
    epochs: int = 10
    batch_size: int = 32
    knn: bool = True


@dataclass(frozen=True, slots=True)
class XaresTask:
    """A task's samples by split, and their labels."""

    name: str
    recipe: Recipe
    splits: Mapping[str, tuple[Sample, ...]]
    rotations: tuple[DataSplit, ...]
    labels: tuple[str, ...]

    def labels_of(self, sample: Sample) -> list[str]:
        """Of a clip."""
        return _labels(sample, self.recipe)

    def events_of(self, sample: Sample) -> list[Event]:
        return _events(sample, self.recipe)


def read_task(
    root: Path, name: str, row: Mapping[str, Any], protocol: ProtocolName = "ours"
) -> XaresTask:
    """The task whose tars lie in ``root / name``.

    ``compat`` splits as xares 0.1.3: a fold that tests also validates, and so do the test splits of
    some tasks. ``ours`` validates with the next fold, or with a tenth of train.

    Raises:
        ValueError: a tar that is missing or broken, a label that is missing, more labels than the
            task has; one line.
    """
    recipe = Recipe(**row)
    directory = root / name
    if not directory.is_dir():
        raise ValueError(f"no folder {directory}; zenodo.org/records/{recipe.zenodo} has its tars")
    if recipe.folds:
        patterns = {fold: recipe.folds.format(fold) for fold in recipe.fold_names}
    else:
        patterns = {"train": recipe.train, "valid": recipe.valid, "test": recipe.test}
    splits = {split: _read_split(directory, pattern) for split, pattern in patterns.items()}
    if recipe.folds:
        rotations = _rotations(tuple(splits), protocol)
    else:
        rotations = data_splits(list(splits), "trainvaltest")
        if recipe.valid == recipe.test and protocol == "ours":
            splits["train"], splits["valid"] = _held_out(splits["train"])
    labels = _all_labels(splits, recipe)
    if len(labels) > recipe.classes:
        raise ValueError(
            f"{directory}: {len(labels)} labels under {recipe.label!r}, the task has "
            f"{recipe.classes}; are these its tars?"
        )
    return XaresTask(name, recipe, splits, tuple(rotations), labels)


def _read_split(directory: Path, pattern: str) -> tuple[Sample, ...]:
    paths = sorted(directory.glob(pattern))
    if not paths:
        raise ValueError(f"{directory}: no {pattern}; download the task again")
    return tuple(read_tars(paths))


def _rotations(folds: tuple[str, ...], protocol: ProtocolName) -> list[DataSplit]:
    if protocol == "ours":
        return data_splits(folds, "kfold")
    return [
        DataSplit(tuple(other for other in folds if other != fold), (fold,), (fold,))
        for fold in folds
    ]


def _held_out(train: Sequence[Sample]) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """A part that depends on names only."""
    chosen = [zlib.crc32(sample.id.encode()) % HELD_OUT == 0 for sample in train]
    kept = tuple(s for s, is_valid in zip(train, chosen, strict=True) if not is_valid)
    return kept, tuple(s for s, is_valid in zip(train, chosen, strict=True) if is_valid)


def _all_labels(splits: Mapping[str, Sequence[Sample]], recipe: Recipe) -> tuple[str, ...]:
    samples = [sample for split in splits.values() for sample in split]
    if recipe.kind == "frames":
        found = {event.label for sample in samples for event in _events(sample, recipe)}
    else:
        found = {label for sample in samples for label in _labels(sample, recipe)}
    return tuple(sorted(found))


def _labels(sample: Sample, recipe: Recipe) -> list[str]:
    try:
        value = str(sample.label[recipe.label])
    except (KeyError, TypeError):
        raise ValueError(f"{sample.id}: its JSON has no {recipe.label!r}") from None
    return value.split(";") if recipe.kind == "multilabel" else [value]


def _events(sample: Sample, recipe: Recipe) -> list[Event]:
    try:
        return [
            Event(label, 1000 * float(row[recipe.start]), 1000 * float(row[recipe.end]))
            for row in sample.label
            for label in str(row[recipe.label]).split(",")
        ]
    except (KeyError, TypeError, ValueError):
        keys = ", ".join(map(repr, (recipe.label, recipe.start, recipe.end)))
        raise ValueError(f"{sample.id}: its JSON is no list of events with {keys}") from None
