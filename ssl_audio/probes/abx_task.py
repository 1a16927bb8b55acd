"""ABX of an encoder's layers on recordings whose phones are known.

Axes: T frames, D channels.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ssl_audio import audio
from ssl_audio.probes.demo import SILENCE, read_rows
from ssl_audio.probes.metrics.abx import AbxItem, AbxSettings, abx_error
from ssl_audio.probes.recordings import Recording
from ssl_audio.probes.sources import FrameSource
from ssl_audio.probes.stream import BATCH_SEC, Failure, iter_features

EDGE = "#"  # the neighbour of a recording's first and last phone


@dataclass(frozen=True, slots=True)
class AbxTask:
    """Recordings and the phones in them; an item's file is the recording's id.

    ``left_out`` has one line for each file that cannot be read.
    """

    recordings: tuple[Recording, ...]
    items: tuple[AbxItem, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AbxScores:
    """Error by layer (NaN where the items allow no triple), and one line per lost recording."""

    errors: Mapping[str, float]
    failures: tuple[str, ...]


def abx_scores(
    source: FrameSource,
    task: AbxTask,
    settings: AbxSettings | None = None,
    *,
    batch_sec: float = BATCH_SEC,
) -> AbxScores:
    """Runs the source once over the recordings and scores each of its layers.

    Items of recordings that cannot be read are left out.
    """
    features: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    failures = list(task.left_out)
    for found in iter_features(source, task.recordings, pooling="none", batch_sec=batch_sec):
        if isinstance(found, Failure):
            failures.append(found.reason)
            continue
        for layer, frames in found.layers.items():
            features[layer][found.id] = frames.numpy()
    errors = {}
    for layer, clips in features.items():
        items = [
            replace(
                item,
                onset_sec=item.onset_sec - source.frame_offset_sec,
                offset_sec=item.offset_sec - source.frame_offset_sec,
            )
            for item in task.items
            if item.file in clips
        ]
        errors[layer] = abx_error(clips, items, frame_rate=source.frame_rate, settings=settings)
    return AbxScores(errors, tuple(failures))


def demo_abx(directory: str | Path, split: str = "test") -> AbxTask:
    """Phones of the demo corpus, its voices as speakers; silence is a neighbour but no item.

    Raises:
        ValueError: no demo corpus there.
    """
    recordings, items = [], []
    for row in read_rows(Path(directory)):
        if row["split"] != split or not row["phones"]:
            continue
        read = partial(audio.read, row["audio"]["bytes"], name=row["id"])
        duration_sec = row["num_samples"] / row["sample_rate_hz"]
        recordings.append(Recording(row["id"], duration_sec, read))
        phones = [(p["start_sec"], p["end_sec"], p["label"]) for p in row["phones"]]
        items += items_of_phones(row["id"], phones, row["voice"])
    return AbxTask(tuple(recordings), tuple(items))


def folder_abx(root: str | Path, task: str, split: str = "test") -> AbxTask:
    """Segments of ``ROOT/probes/TASK/SPLIT.csv`` with a column ``speaker``.

    Raises:
        ValueError: no such csv, a missing column, a time that is not a number.
    """
    path = Path(root) / "probes" / task / f"{split}.csv"
    if not path.is_file():
        raise ValueError(f"{path}: missing; ABX needs segments of phones")
    segments: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    speakers: dict[str, str] = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        for column in ("path", "label", "start", "end", "speaker"):
            if column not in (reader.fieldnames or ()):
                raise ValueError(f"{path}: no column {column!r} in the header; ABX needs it")
        for row in reader:
            try:
                times = float(row["start"]), float(row["end"])
            except (TypeError, ValueError):
                where = f"{path}:{reader.line_num}"
                raise ValueError(f"{where}: start and end must be seconds") from None
            segments[row["path"]].append((*times, row["label"]))
            speakers[row["path"]] = row["speaker"]
    recordings, items, left_out = [], [], []
    for name, phones in segments.items():
        source = Path(root) / name
        try:
            duration_sec = audio.info(source).duration_sec
        except audio.AudioError as error:
            left_out.append(str(error))
            continue
        recordings.append(Recording(name, duration_sec, partial(audio.read, source, name=name)))
        items += items_of_phones(name, sorted(phones), speakers[name])
    return AbxTask(tuple(recordings), tuple(items), tuple(left_out))


def items_of_phones(
    file: str, phones: Sequence[tuple[float, float, str]], speaker: str
) -> list[AbxItem]:
    """Items of (start, end, label) phones in order, the labels beside each as its context."""
    labels = [EDGE, *(label for _, _, label in phones), EDGE]
    return [
        AbxItem(file, start, end, label, f"{labels[i]} {labels[i + 2]}", speaker)
        for i, (start, end, label) in enumerate(phones)
        if label != SILENCE
    ]
