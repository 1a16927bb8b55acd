"""Features of a probe suite: every clip decoded once, every layer pooled over every span.

Axes: B clips, S samples, T frames, D channels.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ssl_audio import audio
from ssl_audio.probes.recordings import Recording, Window, group_by_length, read_windows
from ssl_audio.probes.sources import FrameSource
from ssl_audio.probes.stream import forward_in_parts, pool
from ssl_audio.probes.suite import Example, Pooling, ProbeClip, ProbeSuite, ProbeTask, Span

POOLINGS: tuple[Pooling, ...] = ("mean", "mean_std")


@dataclass(frozen=True, slots=True)
class PooledFeatures:
    """Rows of pooled features for the spans of a suite.

    Attributes:
        tables: per pooling and layer, (rows, D), or (rows, 2 D) with means before deviations.
        rows: row of each span in the tables of its pooling; spans that failed are absent.
    """

    tables: Mapping[Pooling, Mapping[str, Tensor]]
    rows: Mapping[Span, int]

    def select(
        self, task: ProbeTask, examples: Sequence[Example]
    ) -> tuple[list[Example], dict[str, Tensor]]:
        """The examples whose features exist and, per layer, their rows (N, D') in that order.

        Segments get the logarithm of their duration in seconds as a last column.
        """
        present = [example for example in examples if task.span(example) in self.rows]
        index = torch.tensor([self.rows[task.span(e)] for e in present], dtype=torch.int64)
        layers = {name: table[index] for name, table in self.tables[task.pooling].items()}
        if task.unit == "segment":
            durations = [max(1e-3, (e.end_sec or 0.0) - e.start_sec) for e in present]
            column = torch.tensor(durations, dtype=torch.float32).log()[:, None]
            layers = {name: torch.cat([rows, column], dim=1) for name, rows in layers.items()}
        return present, layers


def pooled_features(
    sources: Mapping[str, FrameSource],
    suite: ProbeSuite,
    *,
    batch_sec: float,
    max_clip_sec: float,
    on_progress: Callable[[float], None] | None = None,
) -> tuple[dict[str, PooledFeatures], list[str]]:
    """Features of every span of the suite for every source, decoding each clip once.

    Args:
        sources: by name.
        suite: the tasks.
        batch_sec: padded seconds in a batch; halved where an accelerator runs out of memory.
        max_clip_sec: clips are cut to this; spans that start behind it are left out.
        on_progress: called with the fraction that is done.

    Returns:
        Features by source name, and one line for each clip or span that was left out.
    """
    spans_of: dict[str, list[Span]] = defaultdict(list)
    for span in suite.spans():
        if span.start_sec < max_clip_sec:
            spans_of[span.clip].append(span)
    clips = [clip for name, clip in suite.clips.items() if spans_of[name]]
    durations = [min(clip.duration_sec, max_clip_sec) for clip in clips]
    groups = [
        [Window(index, 0.0, max_clip_sec) for index in group]
        for group in group_by_length(durations, batch_sec)
    ]
    collected = {name: _Collector(source) for name, source in sources.items()}
    failures: list[str] = []
    done = 0
    for batch in read_windows([recording_of(clip) for clip in clips], groups):
        failures += [line for _, line in batch.failures]
        if batch.windows:
            spans = [spans_of[clips[window.recording].id] for window in batch.windows]
            for collector in collected.values():
                collector.add(batch.waveforms, batch.lengths, spans)
        done += len(batch.windows) + len(batch.failures)
        if on_progress is not None:
            on_progress(done / len(clips))
    features = {name: collector.finish() for name, collector in collected.items()}
    failures += sorted({line for collector in collected.values() for line in collector.failures})
    return features, failures


def recording_of(clip: ProbeClip) -> Recording:
    """The clip as what batches are read from."""
    return Recording(clip.id, clip.duration_sec, partial(audio.read, clip.source, name=clip.id))


def frame_range(
    span: Span, frame_rate: float, num_frames: int, offset_sec: float = 0.0
) -> tuple[int, int]:
    """First and one past the last frame whose centre lies in the span.

    Frame i is centred at ``offset_sec + (i + 0.5) / frame_rate``. A span without a centre gets the
    frame nearest to its middle, so only a clip without frames gives an empty range.
    """
    if span.end_sec is None:
        return 0, num_frames
    start, end = ((t - offset_sec) * frame_rate for t in (span.start_sec, span.end_sec))
    first = max(0, math.ceil(start - 0.5 - 1e-6))
    stop = min(num_frames, math.ceil(end - 0.5 - 1e-6))
    if stop <= first and num_frames > 0:
        first = min(max(math.floor((start + end) / 2), 0), num_frames - 1)
        stop = first + 1
    return first, stop


class _Collector:
    """Runs one source over batches and keeps the pooled rows."""

    def __init__(self, source: FrameSource) -> None:
        self.source = source
        self.rows: dict[Span, int] = {}
        self.failures: list[str] = []
        self.parts: dict[Pooling, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
        self.sizes: dict[Pooling, int] = defaultdict(int)

    def add(self, waveforms: Tensor, lengths: Tensor, spans: Sequence[Sequence[Span]]) -> None:
        """Pools every span of the batch."""
        for rows, layers, frames in forward_in_parts(self.source, waveforms, lengths):
            for pooling in POOLINGS:
                self._pool(layers, frames.tolist(), spans[rows], pooling)

    def _pool(
        self,
        layers: Mapping[str, Tensor],
        num_frames: Sequence[int],
        spans: Sequence[Sequence[Span]],
        pooling: Pooling,
    ) -> None:
        steps = next(iter(layers.values())).shape[1]
        picked: list[np.ndarray] = []
        for clip, clip_spans in enumerate(spans):
            for span in clip_spans:
                if span.pooling != pooling:
                    continue
                start, stop = frame_range(
                    span, self.source.frame_rate, num_frames[clip], self.source.frame_offset_sec
                )
                if stop <= start:
                    self.failures.append(f"{span.clip}: too short for a single frame")
                    continue
                self.rows[span] = self.sizes[pooling]
                self.sizes[pooling] += 1
                picked.append(np.arange(clip * steps + start, clip * steps + stop))
        if not picked:
            return
        device = next(iter(layers.values())).device
        frames = torch.from_numpy(np.concatenate(picked)).to(device)
        counts = torch.tensor([len(indices) for indices in picked], device=device)
        for name, states in layers.items():
            rows = pool(states.detach().flatten(0, 1), frames, counts, pooling)
            self.parts[pooling][name].append(rows.cpu())

    def finish(self) -> PooledFeatures:
        tables = {
            pooling: {name: torch.cat(rows) for name, rows in layers.items()}
            for pooling, layers in self.parts.items()
        }
        return PooledFeatures(tables, self.rows)
