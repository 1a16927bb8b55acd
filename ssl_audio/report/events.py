"""Reads back what a run logged: scalars and pictures from its TensorBoard event files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

EVENT_FILES = "events.out.tfevents.*"


@dataclass(frozen=True, slots=True)
class Series:
    """One scalar over optimizer steps, ascending, one value per step."""

    steps: list[int]
    values: list[float]


@dataclass(frozen=True, slots=True)
class Log:
    """What one folder of event files holds.

    Attributes:
        name: the folder, relative to the run; "" is the run's own.
        scalars: by tag.
        pictures: the newest PNG by tag.
    """

    name: str
    scalars: dict[str, Series] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)


def read_logs(run_dir: Path) -> list[Log]:
    """One entry for each folder below ``run_dir`` that holds event files, in order of their age."""
    folders = {path.parent for path in run_dir.rglob(EVENT_FILES)}
    ordered = sorted(folders, key=lambda folder: (_first_written(folder), str(folder)))
    return [_read_folder(folder, run_dir) for folder in ordered]


def _first_written(folder: Path) -> float:
    return min(path.stat().st_mtime for path in folder.glob(EVENT_FILES))


def _read_folder(folder: Path, run_dir: Path) -> Log:
    from tensorboard.backend.event_processing import event_accumulator

    # 0 keeps every scalar; of the pictures only the newest is shown.
    reader = event_accumulator.EventAccumulator(
        str(folder), size_guidance={"scalars": 0, "images": 1}
    )
    reader.Reload()
    tags = reader.Tags()
    log = Log("" if folder == run_dir else folder.relative_to(run_dir).as_posix())
    for tag in sorted(tags["scalars"]):
        # A resumed run logs some steps again: the later value stands.
        by_step = {event.step: event.value for event in reader.Scalars(tag)}
        log.scalars[tag] = Series(sorted(by_step), [by_step[step] for step in sorted(by_step)])
    for tag in sorted(tags["images"]):
        log.pictures[tag] = reader.Images(tag)[-1].encoded_image_string
    return log
