"""Sound events: from frame probabilities to events, and HEAR's scores of them.

Axes: T frames, L labels. Definitions: hear-eval-kit ``heareval/score.py`` and
``predictions/task_predictions.py``, which score with sed_eval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

LAST_FRAME_MS = 1e-4  # a timestamp equal to an event's end still belongs to it


@dataclass(frozen=True, slots=True)
class Event:
    """``label`` is active from ``start_ms`` to ``end_ms``."""

    label: str
    start_ms: float
    end_ms: float


EventsOf = Mapping[str, Sequence[Event]]  # by file name


def frame_targets(
    events: Sequence[Event], timestamps_ms: np.ndarray, labels: Sequence[str]
) -> np.ndarray:
    """(T, L) uint8: 1 where the label is active at the frame's timestamp.

    Raises:
        ValueError: an event whose label is not in ``labels``.
    """
    column = {label: i for i, label in enumerate(labels)}
    times = np.asarray(timestamps_ms, dtype=np.float64)
    targets = np.zeros((len(times), len(labels)), dtype=np.uint8)
    for event in events:
        if event.label not in column:
            raise ValueError(f"event label {event.label!r} is not in the vocabulary")
        active = (times >= event.start_ms) & (times < event.end_ms + LAST_FRAME_MS)
        targets[active, column[event.label]] = 1
    return targets


def events_from_probabilities(
    probabilities: np.ndarray,
    timestamps_ms: np.ndarray,
    labels: Sequence[str],
    *,
    threshold: float = 0.5,
    median_filter_ms: float = 150.0,
    min_duration_ms: float = 60.0,
) -> list[Event]:
    """Runs of active frames after a median filter, by start time.

    Args:
        probabilities: (T, L); compared with ``threshold`` in their own precision.
        timestamps_ms: (T,) in any order; the hop is the mean of their differences.
        labels: L names.
        threshold: a frame is active strictly above it.
        median_filter_ms: width, rounded to whole frames (half to even); 0 is no filter.
        min_duration_ms: shorter events are dropped. An event lasts from its first to its last
            frame, so a single frame has duration 0.
    """
    order = np.argsort(timestamps_ms, kind="stable")
    times = np.asarray(timestamps_ms, dtype=np.float64)[order]
    values = np.asarray(probabilities)[order]
    if len(times) > 1:
        values = median_filter(values, round(median_filter_ms / float(np.mean(np.diff(times)))))
    events = []
    for label, active in zip(labels, (values > threshold).T, strict=True):
        for start, stop in runs(active):
            event = Event(label, float(times[start]), float(times[stop - 1]))
            if event.end_ms - event.start_ms >= min_duration_ms:
                events.append(event)
    return sorted(events, key=lambda event: event.start_ms)


def median_filter(values: np.ndarray, width: int) -> np.ndarray:
    """Sliding median over dim 0 of (T, L); windows start ``width // 2`` frames early.

    Edges repeat in mirror order; of an even number of values the upper middle one is taken.
    """
    if width <= 1 or not len(values):
        return values
    before = width // 2
    padded = np.pad(values, ((before, width - 1 - before), (0, 0)), mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, width, axis=0)
    return np.partition(windows, before, axis=-1)[..., before]


def runs(active: np.ndarray) -> list[tuple[int, int]]:
    """[start, stop) of each run of True in a (T,) array."""
    edges = np.flatnonzero(np.diff(active.astype(np.int8), prepend=0, append=0))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def event_f_measure(
    reference: EventsOf,
    estimated: EventsOf,
    *,
    onset_collar_ms: float,
    match_offset: bool = False,
    offset_share: float = 0.2,
) -> dict[str, float]:
    """Micro F-measure over all files and labels, events matched one to one and optimally.

    A pair may match in the same file and label if the onsets lie within the collar (inclusive) and,
    with ``match_offset``, the offsets within the collar or ``offset_share`` of the reference event,
    whichever is larger.

    Returns:
        ``f_measure``, ``precision``, ``recall``; NaN where nothing was estimated (recall: where
        the reference is empty).
    """
    num_matched = num_reference = num_estimated = 0
    for file in {**reference, **estimated}:
        truth, guess = reference.get(file, ()), estimated.get(file, ())
        num_reference += len(truth)
        num_estimated += len(guess)
        for label in {event.label for event in truth} & {event.label for event in guess}:
            onsets, offsets = _times_sec(truth, label)
            found_onsets, found_offsets = _times_sec(guess, label)
            allowed = np.abs(onsets[:, None] - found_onsets) <= onset_collar_ms / 1000
            if match_offset:
                collar = np.maximum(onset_collar_ms / 1000, offset_share * (offsets - onsets))
                allowed &= np.abs(offsets[:, None] - found_offsets) <= collar[:, None]
            num_matched += maximum_matching(allowed)
    precision = num_matched / num_estimated if num_estimated else math.nan
    recall = num_matched / num_reference if num_reference else math.nan
    total = precision + recall
    f_measure = 2 * precision * recall / total if total else 0.0
    return {"f_measure": f_measure, "precision": precision, "recall": recall}


def maximum_matching(allowed: np.ndarray) -> int:
    """Size of the largest one-to-one matching in a (rows, columns) bool matrix."""
    columns_of = [np.flatnonzero(row).tolist() for row in allowed]
    row_of: dict[int, int] = {}
    for row in range(len(columns_of)):
        _augment(row, columns_of, row_of)
    return len(row_of)


def segment_error_rate(
    reference: EventsOf, estimated: EventsOf, *, segment_sec: float = 1.0
) -> dict[str, float]:
    """Substitutions, deletions and insertions of labels per active reference label.

    Activity is counted on a grid of ``segment_sec`` from 0 to the last offset of each file; an
    event covers every segment that it touches.

    Returns:
        ``error_rate``; lower is better, NaN if the reference is empty.
    """
    errors = active = 0
    for file in {**reference, **estimated}:
        truth, guess = reference.get(file, ()), estimated.get(file, ())
        labels = sorted({event.label for event in (*truth, *guess)})
        if not labels:
            continue
        last_ms = max(event.end_ms for event in (*truth, *guess))
        num_segments = math.ceil(last_ms / 1000 / segment_sec)
        expected = _activity(truth, labels, num_segments, segment_sec)
        found = _activity(guess, labels, num_segments, segment_sec)
        missed = np.sum(expected & ~found, axis=1)
        added = np.sum(found & ~expected, axis=1)
        errors += int(np.maximum(missed, added).sum())  # S + D + I, a substitution being a pair
        active += int(expected.sum())
    return {"error_rate": errors / active if active else math.nan}


EVENT_SCORES: Mapping[str, Callable[[EventsOf, EventsOf], dict[str, float]]] = {
    "event_onset_200ms_fms": partial(event_f_measure, onset_collar_ms=200.0),
    "event_onset_50ms_fms": partial(event_f_measure, onset_collar_ms=50.0),
    "event_onset_offset_50ms_20perc_fms": partial(
        event_f_measure, onset_collar_ms=50.0, match_offset=True
    ),
    "segment_1s_er": segment_error_rate,
}
"""Score functions by the names that HEAR's task metadata use; the first entry is the score."""


def _times_sec(events: Sequence[Event], label: str) -> tuple[np.ndarray, np.ndarray]:
    """Onsets and offsets; in seconds, where the collars of the original are compared."""
    chosen = [(e.start_ms / 1000, e.end_ms / 1000) for e in events if e.label == label]
    table = np.array(chosen)
    return table[:, 0], table[:, 1]


def _augment(row: int, columns_of: Sequence[Sequence[int]], row_of: dict[int, int]) -> None:
    """Adds ``row`` to the matching if an alternating path leads to a free column."""
    came_from: dict[int, int] = {}  # column -> row from which it was reached
    held: dict[int, int] = {}  # row -> column that it gives up
    queue = [row]
    for current in queue:
        for column in columns_of[current]:
            if column in came_from:
                continue
            came_from[column] = current
            if column in row_of:
                held[row_of[column]] = column
                queue.append(row_of[column])
                continue
            while True:
                owner = came_from[column]
                row_of[column] = owner
                if owner == row:
                    return
                column = held[owner]


def _activity(
    events: Sequence[Event], labels: Sequence[str], num_segments: int, segment_sec: float
) -> np.ndarray:
    """(num_segments, L) bool."""
    column = {label: i for i, label in enumerate(labels)}
    active = np.zeros((num_segments, len(labels)), dtype=bool)
    for event in events:
        first = math.floor(event.start_ms / 1000 / segment_sec)
        stop = math.ceil(event.end_ms / 1000 / segment_sec)
        active[first:stop, column[event.label]] = True
    return active
