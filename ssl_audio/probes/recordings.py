"""Audio on its way to an encoder: recordings, the windows that long ones are cut into, batches.

Axes: B windows, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ssl_audio import audio
from ssl_audio.data.source import Source

# Starts of windows lie on this grid: whole frames at 100, 50, 25, 12.5 and 6.25 Hz, and whole
# groups of the frames that Zipformer's inner stacks (8) and rows of BEATs' patches (8) merge.
GRID_SEC = 0.64
DECODERS = 2  # threads; libsndfile and soxr release the interpreter lock


@dataclass(frozen=True, slots=True)
class Recording:
    """Audio of known duration; ``read(start_sec, duration_sec)`` gives (S,) float32 at 16 kHz."""

    id: str
    duration_sec: float
    read: Callable[[float, float | None], np.ndarray]


def recordings_of(source: Source) -> list[Recording]:
    """Every clip of a source, in its order."""
    return [
        Recording(clip.id, clip.duration_sec, partial(source.read, index))
        for index, clip in enumerate(source.clips)
    ]


class Window(NamedTuple):
    """A stretch of a recording, and which seconds of the recording its frames stand for.

    ``duration_sec`` and ``keep_stop_sec`` are None for "to the end".
    """

    recording: int
    start_sec: float
    duration_sec: float | None
    keep_start_sec: float = 0.0
    keep_stop_sec: float | None = None


@dataclass(frozen=True, slots=True)
class Windowing:
    """How recordings too long for one forward pass are cut.

    Windows of ``window_sec`` overlap by twice ``context_sec``; each stands for its middle and the
    contexts are dropped, except at the two ends of the recording. Frames lie where those of the
    uncut recording do. Convolutions whose receptive field is shorter than the context give the same
    values too, and so do norms over time that an encoder can take from the whole recording
    (``Encoder.recording_norms``); attention sees one window. Both are rounded to ``GRID_SEC``.

    Raises:
        ValueError: a window without a middle.
    """

    window_sec: float = 30.72
    context_sec: float = 2.56

    def __post_init__(self) -> None:
        if self.context_sec < 0 or _on_grid(self.window_sec) <= 2 * _on_grid(self.context_sec):
            raise ValueError(
                f"windows of {self.window_sec} s with {self.context_sec} s of context on either "
                f"side have no middle; choose windows at least {GRID_SEC} s longer than both"
            )

    def windows(self, recording: int, duration_sec: float) -> list[Window]:
        """The windows of a recording of this duration, in order."""
        if duration_sec <= self.window_sec:
            return [Window(recording, 0.0, None)]
        window, context = _on_grid(self.window_sec), _on_grid(self.context_sec)
        windows: list[Window] = []
        start = 0
        while True:
            begin = start * GRID_SEC
            keep_start = begin + context * GRID_SEC if start else 0.0
            if begin + window * GRID_SEC >= duration_sec:
                return [*windows, Window(recording, begin, None, keep_start)]
            keep_stop = (start + window - context) * GRID_SEC
            windows.append(Window(recording, begin, window * GRID_SEC, keep_start, keep_stop))
            start += window - 2 * context


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """Decoded windows: ``waveforms`` (B, S), ``lengths`` (B,); (recording, line) of failures."""

    windows: tuple[Window, ...]
    waveforms: Tensor
    lengths: Tensor
    failures: tuple[tuple[int, str], ...]


def read_windows(
    recordings: Sequence[Recording], groups: Iterable[Sequence[Window]]
) -> Iterator[WindowBatch]:
    """Decodes groups of windows, the next group while the last is in use."""
    with ThreadPoolExecutor(DECODERS) as pool:
        waiting: tuple[Sequence[Window], list[Future[np.ndarray | str]]] | None = None
        for group in groups:
            reads = [pool.submit(_read, recordings[window.recording], window) for window in group]
            if waiting is not None:
                yield _gather(*waiting)
            waiting = group, reads
        if waiting is not None:
            yield _gather(*waiting)


def group_windows(
    durations_sec: Sequence[float], windowing: Windowing, batch_sec: float
) -> list[list[Window]]:
    """Groups of windows with at most ``batch_sec`` padded seconds: first every long recording by
    itself, its windows in order, then the others in descending duration."""
    groups: list[list[Window]] = []
    short: list[int] = []
    per_group = max(1, int(batch_sec // windowing.window_sec))
    for index, duration in enumerate(durations_sec):
        windows = windowing.windows(index, duration)
        if len(windows) == 1:
            short.append(index)
        else:
            groups += [windows[i : i + per_group] for i in range(0, len(windows), per_group)]
    for members in group_by_length([durations_sec[i] for i in short], batch_sec):
        groups.append([Window(short[i], 0.0, None) for i in members])
    return groups


def group_by_length(durations_sec: Sequence[float], batch_sec: float) -> list[list[int]]:
    """Indices in groups of descending duration with at most ``batch_sec`` padded seconds each."""
    order = sorted(range(len(durations_sec)), key=lambda i: (-durations_sec[i], i))
    groups: list[list[int]] = []
    for index in order:
        longest = durations_sec[groups[-1][0]] if groups else math.inf
        if groups and longest * (len(groups[-1]) + 1) <= batch_sec:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _on_grid(seconds: float) -> int:
    return round(seconds / GRID_SEC)


def _read(recording: Recording, window: Window) -> np.ndarray | str:
    """The samples, or one line on why there are none."""
    try:
        return recording.read(window.start_sec, window.duration_sec)
    except audio.AudioError as error:
        return str(error)


def _gather(windows: Sequence[Window], reads: Sequence[Future[np.ndarray | str]]) -> WindowBatch:
    kept: list[Window] = []
    waveforms: list[Tensor] = []
    failures: list[tuple[int, str]] = []
    for window, read in zip(windows, reads, strict=True):
        samples = read.result()
        if isinstance(samples, str):
            failures.append((window.recording, samples))
        else:
            kept.append(window)
            waveforms.append(torch.from_numpy(samples))
    lengths = torch.tensor([len(samples) for samples in waveforms], dtype=torch.int64)
    padded = pad_sequence(waveforms, batch_first=True) if waveforms else torch.zeros(0, 0)
    return WindowBatch(tuple(kept), padded, lengths, tuple(failures))
