"""From a network's probabilities to HEAR's scores, of clips and of events.

Axes: N clips or frames, C classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ssl_audio.probes.metrics.events import (
    EVENT_SCORES,
    Event,
    EventsOf,
    events_from_probabilities,
)
from ssl_audio.probes.metrics.scene import SCENE_SCORES

LOWER_IS_BETTER = frozenset({"segment_1s_er"})
# hear-eval-kit 2021.1.3, for tasks whose metadata give no grid of their own
POSTPROCESSING_GRID: Mapping[str, Sequence[float]] = {
    "median_filter_ms": (250.0,),
    "min_duration": (125.0, 250.0),
}

PostProcessing = dict[str, float]


@dataclass(frozen=True, slots=True)
class FileFrames:
    """Frames of one file: rows [start, stop) of a split, and their times."""

    name: str
    start: int
    stop: int
    timestamps_ms: np.ndarray


class Scorer(Protocol):
    """Scores one split."""

    def best(self, probabilities: np.ndarray) -> tuple[float, PostProcessing]:
        """The primary score, higher is better, and the post-processing that gives it."""

    def all(self, probabilities: np.ndarray, choice: PostProcessing) -> dict[str, float]:
        """Every score of the task by name, as it is written."""

    def resampled(self, rng: np.random.Generator) -> Scorer:
        """This scorer over as many clips or files, drawn with replacement."""


def score_names(names: Sequence[str], embedding_type: str) -> list[str]:
    """``names`` if all are known for this type of task.

    Raises:
        ValueError: none, or an unknown one.
    """
    known = EVENT_SCORES if embedding_type == "event" else SCENE_SCORES
    for name in names:
        if name not in known:
            raise ValueError(f"unknown score {name!r}; {embedding_type} scores: {', '.join(known)}")
    if not names:
        raise ValueError(f"no score; {embedding_type} scores: {', '.join(known)}")
    return list(names)


class SceneScorer:
    """Clip scores.

    Args:
        names: of the scores, the primary one first.
        targets: (N, C), 0 or 1.
        rows: of the probabilities to score; None scores all.
    """

    def __init__(
        self, names: Sequence[str], targets: np.ndarray, rows: np.ndarray | None = None
    ) -> None:
        self.names, self.targets = names, targets
        self.rows = np.arange(len(targets)) if rows is None else rows

    def best(self, probabilities: np.ndarray) -> tuple[float, PostProcessing]:
        return _comparable(self.names[0], self._score(self.names[0], probabilities)), {}

    def all(self, probabilities: np.ndarray, choice: PostProcessing) -> dict[str, float]:
        return {name: self._score(name, probabilities) for name in self.names}

    def resampled(self, rng: np.random.Generator) -> SceneScorer:
        rows = rng.choice(self.rows, len(self.rows))
        return SceneScorer(self.names, self.targets, rows)

    def _score(self, name: str, probabilities: np.ndarray) -> float:
        return SCENE_SCORES[name](probabilities[self.rows], self.targets[self.rows])


class EventScorer:
    """Event scores; frames become events by each post-processing of a grid.

    Args:
        names: of the scores, the primary one first.
        files: rows and times of every file of the split.
        events: reference by file name.
        labels: C names.
        grid: values of ``median_filter_ms`` and ``min_duration`` (ms).
        whole_last_frame: an event ends a hop behind its last frame's timestamp; the kit ends it at
            the timestamp.
    """

    def __init__(
        self,
        names: Sequence[str],
        files: Sequence[FileFrames],
        events: EventsOf,
        labels: Sequence[str],
        grid: Mapping[str, Sequence[float]],
        *,
        whole_last_frame: bool,
    ) -> None:
        self.names, self.files, self.events, self.labels = names, files, events, labels
        self.grid, self.whole_last_frame = grid, whole_last_frame

    def best(self, probabilities: np.ndarray) -> tuple[float, PostProcessing]:
        """Of equals the one with the larger values, as the kit sorts them."""
        tried = []
        for values in itertools.product(*self.grid.values()):
            choice = dict(zip(self.grid, values, strict=True))
            value = self._scores(self.names[:1], probabilities, choice)[self.names[0]]
            tried.append((_comparable(self.names[0], value), choice))
        return max(tried, key=lambda pair: (pair[0], *pair[1].values()))

    def all(self, probabilities: np.ndarray, choice: PostProcessing) -> dict[str, float]:
        return self._scores(self.names, probabilities, choice)

    def resampled(self, rng: np.random.Generator) -> EventScorer:
        files, events = [], {}
        for number, pick in enumerate(rng.integers(len(self.files), size=len(self.files))):
            file = self.files[pick]
            name = f"{number}/{file.name}"  # a file that is drawn twice counts twice
            files.append(FileFrames(name, file.start, file.stop, file.timestamps_ms))
            events[name] = self.events.get(file.name, ())
        return EventScorer(
            self.names,
            files,
            events,
            self.labels,
            self.grid,
            whole_last_frame=self.whole_last_frame,
        )

    def _scores(
        self, names: Sequence[str], probabilities: np.ndarray, choice: PostProcessing
    ) -> dict[str, float]:
        """NaN, when nothing was estimated, is 0."""
        found = {file.name: self._events(file, probabilities, choice) for file in self.files}
        scores = {}
        for name in names:
            value = next(iter(EVENT_SCORES[name](self.events, found).values()))
            scores[name] = 0.0 if math.isnan(value) else value
        return scores

    def _events(
        self, file: FileFrames, probabilities: np.ndarray, choice: PostProcessing
    ) -> list[Event]:
        times = file.timestamps_ms
        hop_ms = float(np.mean(np.diff(times))) if len(times) > 1 else 0.0
        extra_ms = hop_ms if self.whole_last_frame else 0.0
        events = events_from_probabilities(
            probabilities[file.start : file.stop],
            times,
            self.labels,
            median_filter_ms=choice["median_filter_ms"],
            min_duration_ms=choice["min_duration"] - extra_ms,
        )
        return [Event(e.label, e.start_ms, e.end_ms + extra_ms) for e in events]


def _comparable(name: str, value: float) -> float:
    """Higher is better; what has no value is worst."""
    if math.isnan(value):
        return -math.inf
    return -value if name in LOWER_IS_BETTER else value
