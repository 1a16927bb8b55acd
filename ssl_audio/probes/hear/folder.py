"""Reads HEAR's preprocessed task folders unchanged (hear-preprocess 2021.1).

``task_metadata.json``, ``labelvocabulary.csv``, one JSON per split or fold, and
``RATE/SPLIT/FILE.wav``. Times in the JSON files are milliseconds.
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssl_audio.batch import SAMPLE_RATE_HZ
from ssl_audio.probes.hear.grid import Schedule
from ssl_audio.probes.hear.protocol import DataSplit, Problem, data_splits
from ssl_audio.probes.hear.scoring import POSTPROCESSING_GRID, score_names
from ssl_audio.probes.metrics.events import Event

METADATA_FILE, VOCABULARY_FILE = "task_metadata.json", "labelvocabulary.csv"
SHUFFLE_SEED = 0  # the kit stores the clips of a split in this order


@dataclass(frozen=True, slots=True)
class HearClip:
    """One file of a split: labels of the clip, or events."""

    name: str
    path: Path
    labels: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class HearTask:
    """One task folder.

    Attributes:
        name: of the folder, e.g. ``esc50-v2.0.0-full``.
        problem: labels, scores and training.
        rotations: which splits train, validate and test.
        splits: clips by split or fold, in the kit's order.
        audio_rate_hz: of the audio folder that is read.
    """

    name: str
    problem: Problem
    rotations: tuple[DataSplit, ...]
    splits: Mapping[str, tuple[HearClip, ...]]
    audio_rate_hz: int


def read_task(directory: str | Path) -> HearTask:
    """The task that ``directory`` holds.

    Audio at 16 kHz is preferred, else the next higher rate is read and resampled.

    Raises:
        ValueError: a file, split, key or audio folder that is missing, a label that the vocabulary
            does not have, or an unknown score; one line.
    """
    directory = Path(directory)
    metadata = _read_json(directory / METADATA_FILE)
    labels = _read_vocabulary(directory / VOCABULARY_FILE)
    embedding_type = _one_of(directory, metadata, "embedding_type", ("scene", "event"))
    prediction_type = _one_of(directory, metadata, "prediction_type", ("multiclass", "multilabel"))
    rate = _audio_rate(directory)
    names = _split_names(directory, metadata)
    try:
        rotations = data_splits(names, str(metadata.get("split_mode", "trainvaltest")))
        scores = score_names([str(name) for name in metadata.get("evaluation", ())], embedding_type)
    except ValueError as error:
        raise ValueError(f"{directory}: {error}") from error
    problem = Problem(
        labels=labels,
        scores=tuple(scores),
        multilabel=prediction_type == "multilabel",
        is_event=embedding_type == "event",
    )
    return HearTask(
        name=directory.name,
        problem=_with_parameters(problem, metadata),
        rotations=tuple(rotations),
        splits={name: _read_split(directory, name, rate, problem) for name in names},
        audio_rate_hz=rate,
    )


def _split_names(directory: Path, metadata: Mapping[str, Any]) -> list[str]:
    """From ``splits``, or from ``nfolds``, or from the mode."""
    if metadata.get("splits"):
        return [str(name) for name in metadata["splits"]]
    if metadata.get("nfolds"):
        return [f"fold{number:02d}" for number in range(int(metadata["nfolds"]))]
    folds = sorted(path.stem for path in directory.glob("fold*.json"))
    return folds or ["train", "valid", "test"]


def _with_parameters(problem: Problem, metadata: Mapping[str, Any]) -> Problem:
    """With the grids that the metadata fix for this task."""
    params = metadata.get("evaluation_params") or {}
    grid = params.get("event_postprocessing_grid") or POSTPROCESSING_GRID
    return replace(
        problem,
        postprocessing={name: tuple(map(float, grid[name])) for name in POSTPROCESSING_GRID},
        schedule=Schedule().changed_by(params.get("task_specific_param_grid") or {}),
        select_on_loss=metadata.get("use_scoring_for_early_stopping") is False,
    )


def _read_split(directory: Path, split: str, rate: int, problem: Problem) -> tuple[HearClip, ...]:
    path = directory / f"{split}.json"
    rows = _read_json(path)
    if not rows:
        raise ValueError(f"{path}: no clip; unpack the archive again")
    names = sorted(rows)
    random.Random(SHUFFLE_SEED).shuffle(names)
    folder = directory / str(rate) / split
    known = set(problem.labels)
    clips = []
    for name in names:
        clip = _clip(name, folder / name, rows[name], problem.is_event)
        for label in clip.labels or {event.label for event in clip.events}:
            if label not in known:
                raise ValueError(f"{path}: label {label!r} of {name} is not in {VOCABULARY_FILE}")
        if not problem.multilabel and len(clip.labels) != 1:
            raise ValueError(f"{path}: {name} has {len(clip.labels)} labels, a multiclass task one")
        clips.append(clip)
    return tuple(clips)


def _clip(name: str, path: Path, value: Sequence[Any], is_event: bool) -> HearClip:
    if not is_event:
        values = [value] if isinstance(value, str | int) else value
        return HearClip(name, path, labels=tuple(map(str, values)))
    events = [Event(str(row["label"]), float(row["start"]), float(row["end"])) for row in value]
    return HearClip(name, path, events=tuple(events))


def _audio_rate(directory: Path) -> int:
    rates = sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())
    usable = [rate for rate in rates if rate >= SAMPLE_RATE_HZ]
    if not usable:
        raise ValueError(
            f"{directory}: no audio folder named after its rate (16000, 48000, …); unpack "
            f"hear-VERSION-{directory.name}-RATE.tar.gz"
        )
    return usable[0]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} is missing; unpack the task's archive again") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); unpack the archive again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object; unpack the task's archive again")
    return value


def _read_vocabulary(path: Path) -> tuple[str, ...]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = {int(row["idx"]): str(row["label"]) for row in csv.DictReader(file)}
    except OSError as error:
        raise ValueError(f"{path} is missing; unpack the task's archive again") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} needs columns idx and label ({error})") from error
    if sorted(rows) != list(range(len(rows))) or len(rows) < 2:
        raise ValueError(f"{path}: idx must count from 0 without gaps over two labels or more")
    return tuple(rows[index] for index in range(len(rows)))


def _one_of(
    directory: Path, metadata: Mapping[str, Any], key: str, allowed: tuple[str, ...]
) -> str:
    value = metadata.get(key)
    if value not in allowed:
        raise ValueError(
            f"{directory / METADATA_FILE}: {key} is {value!r}; known are {', '.join(allowed)}"
        )
    return str(value)
