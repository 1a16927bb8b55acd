"""Probe suite on the demo corpus, from the labels that its synthesisers know exactly."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_audio.probes.boundary_task import FRAME_SEC, boundary_task
from ssl_audio.probes.suite import (
    SPLITS,
    Example,
    ProbeClip,
    ProbeSuite,
    ProbeTask,
    Unit,
    limit_examples,
    most_frequent_labels,
)

# task -> column of the data set; a clip without a value is not part of the task
CLIP_TASKS = {
    "language": "language",
    "voice": "voice",
    "sound_event": "event",
    "pitch": "pitch",
    "instrument": "instrument",
}
FRAME_TASK = "phones"
SILENCE = "sil"
MAX_PHONES = 30
MAX_FRAMES = {"train": 2000, "valid": 600, "test": 1500}
COLUMNS = ("id", "audio", "num_samples", "sample_rate_hz", "split")


def demo_suite(
    directory: str | Path,
    tasks: Sequence[str] | None = None,
    max_clips: int | None = None,
    seed: int = 0,
) -> ProbeSuite:
    """Clip-level tasks (language, voice, sound event, pitch, instrument), phones of frames, and the
    boundaries of phones.

    Args:
        directory: the corpus as ``datasets`` saved it.
        tasks: names to keep; None keeps all.
        max_clips: per split and domain, for quick probes; None takes all clips.
        seed: of the draw of clips and frames.

    Raises:
        ValueError: no data set there, a missing column, or an unknown task.
    """
    rows = _limit_rows(read_rows(Path(directory)), max_clips, seed)
    clips = {
        row["id"]: ProbeClip(
            row["id"], row["audio"]["bytes"], row["num_samples"] / row["sample_rate_hz"]
        )
        for row in rows
    }
    built = [_clip_task(name, column, rows) for name, column in CLIP_TASKS.items()]
    built += [_phone_task(rows, seed), _boundary_task(rows)]
    return ProbeSuite("demo", clips, tuple(built)).only(tasks)


def phone_frames(clip: str, phones: Sequence[Mapping[str, Any]]) -> Iterator[Example]:
    """One example for each frame of the grid whose centre lies in a phone; silence is left out."""
    for phone in phones:
        if phone["label"] == SILENCE:
            continue
        index = math.ceil(phone["start_sec"] / FRAME_SEC - 0.5)
        while (index + 0.5) * FRAME_SEC < phone["end_sec"]:
            start = round(index * FRAME_SEC, 4)
            yield Example(clip, phone["label"], start, round(start + FRAME_SEC, 4))
            index += 1


def read_rows(directory: Path) -> list[dict[str, Any]]:
    import datasets

    if not directory.is_dir():
        raise ValueError(f"{directory}: no demo corpus here; build it with data=demo")
    try:
        corpus = datasets.load_from_disk(str(directory))
    except FileNotFoundError as error:
        raise ValueError(f"{directory}: not a saved data set; build it with data=demo") from error
    for column in (*COLUMNS, *CLIP_TASKS.values(), FRAME_TASK):
        if column not in corpus.column_names:
            raise ValueError(f"{directory}: no column {column!r}; delete the folder and rebuild it")
    if isinstance(corpus.features["audio"], datasets.Audio):
        corpus = corpus.cast_column("audio", datasets.Audio(decode=False))
    return list(corpus)


def _limit_rows(
    rows: list[dict[str, Any]], max_clips: int | None, seed: int
) -> list[dict[str, Any]]:
    """A draw of at most ``max_clips`` for each split and domain, in the order of ``rows``."""
    if max_clips is None:
        return rows
    kept: set[str] = set()
    for group in sorted({(row["domain"], row["split"]) for row in rows}):
        ids = [row["id"] for row in rows if (row["domain"], row["split"]) == group]
        random.Random(f"{seed}/{group}").shuffle(ids)
        kept.update(ids[:max_clips])
    return [row for row in rows if row["id"] in kept]


def _clip_task(name: str, column: str, rows: Sequence[Mapping[str, Any]]) -> ProbeTask:
    def labelled(row: Mapping[str, Any]) -> Iterator[Example]:
        if row[column] is not None:
            yield Example(row["id"], str(row[column]))

    return _task(name, "clip", rows, labelled)


def _phone_task(rows: Sequence[Mapping[str, Any]], seed: int) -> ProbeTask:
    def frames_of(row: Mapping[str, Any]) -> Iterator[Example]:
        return phone_frames(row["id"], row["phones"])

    task = _task(FRAME_TASK, "frame", rows, frames_of)
    kept = most_frequent_labels(task.examples["train"], MAX_PHONES)
    examples = {}
    for split in SPLITS:
        frames = [example for example in task.examples[split] if example.label in kept]
        examples[split] = tuple(limit_examples(frames, MAX_FRAMES[split], f"{seed}/{split}"))
    return ProbeTask(FRAME_TASK, "frame", examples)


def _boundary_task(rows: Sequence[Mapping[str, Any]]) -> ProbeTask:
    segments: dict[str, dict[str, list[tuple[float, float]]]] = {split: {} for split in SPLITS}
    for row in rows:
        if row["phones"]:
            times = [(phone["start_sec"], phone["end_sec"]) for phone in row["phones"]]
            segments[row["split"]][row["id"]] = times
    return boundary_task(FRAME_TASK, segments)


def _task(
    name: str,
    unit: Unit,
    rows: Sequence[Mapping[str, Any]],
    examples_of: Callable[[Mapping[str, Any]], Iterator[Example]],
) -> ProbeTask:
    examples = {
        split: tuple(e for row in rows if row["split"] == split for e in examples_of(row))
        for split in SPLITS
    }
    return ProbeTask(name, unit, examples)
