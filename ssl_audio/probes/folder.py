"""Probe suite from csv files: ``ROOT/probes/TASK/{train,valid,test}.csv``.

Each csv has columns ``path`` (relative to ROOT) and ``label``; with ``start`` and ``end`` (seconds)
a row is a segment, else the whole clip. Further columns are ignored. Segments make up a second
task, ``TASK_boundaries``.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_audio import audio
from ssl_audio.probes.boundary_task import SUFFIX, boundary_task
from ssl_audio.probes.suite import (
    SPLITS,
    Example,
    ProbeClip,
    ProbeSuite,
    ProbeTask,
    Unit,
    limit_clips,
    most_frequent_labels,
)


@dataclass(frozen=True, slots=True)
class FolderLimits:
    """How much of each task is probed; None takes everything.

    Attributes:
        max_train_clips, max_valid_clips, max_test_clips: clips per split, classes served in turn.
        max_segment_labels: segment tasks keep their most frequent training labels.
    """

    max_train_clips: int | None = 400
    max_valid_clips: int | None = 200
    max_test_clips: int | None = 300
    max_segment_labels: int | None = 30

    def clips(self, split: str) -> int | None:
        return {
            "train": self.max_train_clips,
            "valid": self.max_valid_clips,
            "test": self.max_test_clips,
        }[split]


def folder_suite(
    root: str | Path,
    tasks: Sequence[str] | None = None,
    limits: FolderLimits | None = None,
) -> ProbeSuite:
    """Reads the tasks below ``root`` (the folder that holds ``probes``, or that folder itself).

    Args:
        root: paths in the csv files are relative to the folder that holds ``probes``.
        tasks: names to read; None reads all.
        limits: caps per task.

    Returns:
        The suite; its ``left_out`` names files that cannot be read, and tasks that cannot be used:
        a missing split or column, or a time that is not a number.

    Raises:
        ValueError: no such folder, none of the tasks can be used, or an unknown one.
    """
    root = Path(root)
    home = root.parent if root.name == "probes" else root
    found = sorted({path.parent.name for path in (home / "probes").glob("*/t*.csv")})
    if not found:
        raise ValueError(f"{home}: no probes/TASK/train.csv here; correct the probe root")
    for name in tasks or ():
        if name.removesuffix(SUFFIX) not in found:
            raise ValueError(f"{home / 'probes'}: no task {name!r}; tasks: {', '.join(found)}")
    limits = limits or FolderLimits()
    wanted = found if tasks is None else sorted({name.removesuffix(SUFFIX) for name in tasks})
    loaded: list[ProbeTask] = []
    broken: dict[str, str] = {}
    for name in wanted:
        try:
            loaded += _read_tasks(home, name, limits)
        except ValueError as error:
            broken[name] = f"task {name}: {error}"
    if not loaded:
        raise ValueError(next(iter(broken.values())))
    paths = {e.clip for task in loaded for split in SPLITS for e in task.examples[split]}
    clips, failures = _read_durations(home, sorted(paths))
    kept = tuple(_without_missing(task, clips) for task in loaded)
    suite = ProbeSuite("folder", clips, kept, (*broken.values(), *failures), tuple(broken))
    return suite.only(tasks and [x for x in tasks if x.removesuffix(SUFFIX) not in broken])


def _read_tasks(home: Path, name: str, limits: FolderLimits) -> list[ProbeTask]:
    """The task and, of segments, the one of their boundaries."""
    rows = {split: _read_csv(home / "probes" / name / f"{split}.csv") for split in SPLITS}
    unit: Unit = "clip" if rows["train"] and rows["train"][0].end_sec is None else "segment"
    boundaries = [boundary_task(name, _times(name, rows))] if unit == "segment" else []
    if unit == "segment" and limits.max_segment_labels is not None:
        kept = most_frequent_labels(rows["train"], limits.max_segment_labels)
        rows = {split: [e for e in rows[split] if e.label in kept] for split in SPLITS}
    examples = {
        split: tuple(limit_clips(rows[split], limits.clips(split), f"{name}/{split}"))
        for split in SPLITS
    }
    return [ProbeTask(name, unit, examples), *boundaries]


def _times(
    name: str, rows: dict[str, list[Example]]
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Split to clip to (start, end)."""
    times: dict[str, dict[str, list[tuple[float, float]]]] = {split: {} for split in rows}
    for split, examples in rows.items():
        for example in examples:
            if example.end_sec is None:
                raise ValueError(
                    f"{name}: train.csv has start and end, {split}.csv has not; add the columns"
                )
            span = example.start_sec, example.end_sec
            times[split].setdefault(example.clip, []).append(span)
    return times


def _read_csv(path: Path) -> list[Example]:
    if not path.is_file():
        raise ValueError(f"{path}: missing; a task needs train.csv, valid.csv and test.csv")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        for column in ("path", "label"):
            if column not in (reader.fieldnames or ()):
                raise ValueError(f"{path}: no column {column!r} in the header; add it")
        timed = {"start", "end"} <= set(reader.fieldnames or ())
        return [_example(row, timed, f"{path}:{reader.line_num}") for row in reader]


def _example(row: dict[str, str], timed: bool, where: str) -> Example:
    if not timed:
        return Example(row["path"], row["label"])
    try:
        start, end = float(row["start"]), float(row["end"])
    except (TypeError, ValueError):
        raise ValueError(f"{where}: start and end must be seconds; correct the row") from None
    if not 0 <= start < end:
        raise ValueError(f"{where}: needs 0 <= start < end, got {start} and {end}")
    return Example(row["path"], row["label"], start, end)


def _read_durations(home: Path, paths: Sequence[str]) -> tuple[dict[str, ProbeClip], list[str]]:
    clips: dict[str, ProbeClip] = {}
    failures = []
    for path in paths:
        source = home / path
        try:
            clips[path] = ProbeClip(path, str(source), audio.info(source).duration_sec)
        except audio.AudioError as error:
            failures.append(str(error))
    return clips, failures


def _without_missing(task: ProbeTask, clips: dict[str, ProbeClip]) -> ProbeTask:
    examples = {
        split: tuple(e for e in task.examples[split] if e.clip in clips) for split in SPLITS
    }
    return ProbeTask(task.name, task.unit, examples)
