"""Labelled clips for fine-tuning: ``ROOT/probes/TASK/{train,valid,test}.csv``."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssl_audio.data.clips import Clip
from ssl_audio.data.manifest_source import ManifestSource
from ssl_audio.data.source import FileSource
from ssl_audio.data.split import TEST, TRAIN, VALID

LABEL_SEPARATOR = ";"  # between the labels of a multi-label clip


class LabelledSource(FileSource):
    """The clips of one classification task, with the splits that its files give.

    Each csv has the columns ``path`` (relative to ``root``) and ``label``; several labels of a
    clip are separated by ";". The classes are those of the training split.

    Args:
        root: the folder that holds ``probes``, or that folder itself.
        task: name of the folder below ``probes``.
        max_sec: of a longer clip only the beginning is used.
        cache_dir: keeps the clips' lengths.

    Attributes:
        name: of the task.
        labels: class names, sorted.
        targets: (n, C) float32, 1.0 where a clip has the label.

    Raises:
        ValueError: no such task or file, segments in place of clips, a row without a label, or a
            label that no training clip has.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        task: str,
        *,
        max_sec: float,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        home = Path(root).parent if Path(root).name == "probes" else Path(root)
        folder = home / "probes" / task
        if not folder.is_dir():
            found = sorted(path.parent.name for path in (home / "probes").glob("*/train.csv"))
            raise ValueError(f"{folder} does not exist; data.task is one of: {', '.join(found)}")
        clips: list[Clip] = []
        skipped: list[tuple[str, str]] = []
        for split in (TRAIN, VALID, TEST):
            _check_header(folder / f"{split}.csv")
            listed = ManifestSource(folder / f"{split}.csv", root=home, cache_dir=cache_dir)
            clips += [_of_split(clip, split, max_sec) for clip in listed.clips]
            skipped += listed.skipped
        super().__init__(clips, skipped)
        self.name = task
        labels = [_labels(clip, folder) for clip in clips]
        in_train = [row for row, clip in zip(labels, clips, strict=True) if _split(clip) == TRAIN]
        self.labels = tuple(sorted({name for row in in_train for name in row}))
        column = {name: index for index, name in enumerate(self.labels)}
        self.targets = np.zeros((len(clips), len(self.labels)), dtype=np.float32)
        for target, row, clip in zip(self.targets, labels, clips, strict=True):
            for name in row:
                if name not in column:
                    raise ValueError(
                        f"{folder}: the label {name!r} of {clip.id} is in no training row; "
                        "move a clip with it to train.csv or remove it"
                    )
                target[column[name]] = 1.0


def _check_header(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is missing; a task needs train.csv, valid.csv and test.csv")
    with path.open(encoding="utf-8-sig") as file:
        columns = file.readline().strip().split(",")
    if "start" in columns:
        raise ValueError(f"{path} labels segments of clips; choose a data.task that labels clips")


def _of_split(clip: Clip, split: str, max_sec: float) -> Clip:
    return replace(
        clip,
        id=f"{split}/{clip.id}",
        num_samples=min(clip.num_samples, int(max_sec * clip.sample_rate_hz)),
        tags={**clip.tags, "split": split},
    )


def _split(clip: Clip) -> str:
    return clip.tags["split"]


def _labels(clip: Clip, folder: Path) -> list[str]:
    names = [name.strip() for name in clip.tags.get("label", "").split(LABEL_SEPARATOR)]
    if not all(names):
        raise ValueError(f"{folder / _split(clip)}.csv: {clip.id} has no label; add one")
    return names
