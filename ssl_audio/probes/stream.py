"""The one way from audio to features: decode, run an encoder, pool, clip by clip.

Linear probes, HEAR, SUPERB and ``ssl-audio extract`` all read what comes out here.

Axes: B windows, T frames, D channels.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ssl_audio.audio import AudioError
from ssl_audio.probes.recordings import (
    GRID_SEC,
    Recording,
    Window,
    Windowing,
    group_windows,
    read_windows,
)
from ssl_audio.probes.sources import FrameSource, RecordingSource
from ssl_audio.probes.suite import Pooling

FeaturePooling = Literal["none"] | Pooling

EXTRACTOR = 2  # raise it with any change of values: cached features become stale
BATCH_SEC = 60.0


@dataclass(frozen=True, slots=True)
class Features:
    """What an encoder makes of one recording.

    Attributes:
        index: of the recording in the list that was given.
        id: of the recording.
        layers: name to (T, D) frames, (D,) means or (2 D,) means before deviations; CPU, float32.
        num_frames: T, also when pooled.
    """

    index: int
    id: str
    layers: dict[str, Tensor]
    num_frames: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A recording without features, and one line on why."""

    index: int
    id: str
    reason: str


def iter_features(
    source: FrameSource,
    recordings: Sequence[Recording],
    *,
    pooling: FeaturePooling = "mean",
    batch_sec: float = BATCH_SEC,
    windowing: Windowing | None = None,
) -> Iterator[Features | Failure]:
    """Features of every recording, each exactly once, in an order of its own.

    Args:
        source: an encoder's layers, or a baseline.
        recordings: what to read.
        pooling: "none" for frames, "mean", or "mean_std" (deviation of the population).
        batch_sec: padded seconds in a batch; halved where an accelerator runs out of memory.
        windowing: how long recordings are cut.

    Raises:
        ValueError: a layer that the source does not have, or a recording to cut at a frame rate
            that has no whole frames in ``GRID_SEC``.
    """
    windowing = windowing or Windowing()
    durations = [recording.duration_sec for recording in recordings]
    groups = group_windows(durations, windowing, batch_sec)
    pending = Counter(window.recording for group in groups for window in group)
    if any(count > 1 for count in pending.values()):
        _check_grid(source.frame_rate)
    parts: dict[int, list[dict[str, _Part]]] = defaultdict(list)
    failed: dict[int, str] = {}
    num_windows = dict(pending)
    heard, recording = source, -1
    for batch in read_windows(recordings, groups):
        failed.update(batch.failures)
        if batch.windows and batch.windows[0].recording != recording:
            recording = batch.windows[0].recording
            is_long = num_windows[recording] > 1
            heard = _within(source, recordings[recording], windowing) if is_long else source
        for window, part in _parts(heard, batch.windows, batch.waveforms, batch.lengths, pooling):
            parts[window.recording].append(part)
        for index in [w.recording for w in batch.windows] + [i for i, _ in batch.failures]:
            pending[index] -= 1
            if pending[index] == 0:
                yield _finished(index, recordings[index].id, parts.pop(index, []), failed, pooling)


def _within(source: FrameSource, recording: Recording, windowing: Windowing) -> FrameSource:
    """``source`` for windows of ``recording``, with norms over all of it."""
    if not isinstance(source, RecordingSource):
        return source
    pieces = Windowing(windowing.window_sec, 0.0).windows(0, recording.duration_sec)
    try:
        return source.within(
            torch.from_numpy(recording.read(piece.start_sec, piece.duration_sec))
            for piece in pieces
        )
    except AudioError:  # reading the windows says so too
        return source


def forward_in_parts(
    source: FrameSource, waveforms: Tensor, lengths: Tensor
) -> Iterator[tuple[slice, dict[str, Tensor], Tensor]]:
    """(rows, layers, valid frames) of a batch, of halves of it if memory does not suffice."""
    try:
        layers, frames = source.layers(waveforms, lengths)
    except torch.cuda.OutOfMemoryError:
        if len(lengths) == 1:
            raise
        torch.cuda.empty_cache()
    else:
        yield slice(0, len(lengths)), layers, frames
        return
    middle = len(lengths) // 2
    for first, last in ((0, middle), (middle, len(lengths))):
        longest = int(lengths[first:last].max())
        for rows, layers, frames in forward_in_parts(
            source, waveforms[first:last, :longest], lengths[first:last]
        ):
            yield slice(first + rows.start, first + rows.stop), layers, frames


def pool(states: Tensor, frames: Tensor, counts: Tensor, pooling: Pooling) -> Tensor:
    """Statistics over groups of frames.

    Args:
        states: (B * T, D) frames of a batch.
        frames: (F,) indices into it, group after group.
        counts: (G,) frames of each group, at least 1.
        pooling: "mean" or "mean_std".

    Returns:
        (G, D) means, or (G, 2 D) means and standard deviations (of the population), float32.
    """
    picked = states[frames].float()
    mean = torch.segment_reduce(picked, "mean", lengths=counts, axis=0)
    if pooling == "mean":
        return mean
    deviation = picked - mean.repeat_interleave(counts, dim=0)
    variance = torch.segment_reduce(deviation.square(), "mean", lengths=counts, axis=0)
    return torch.cat([mean, variance.sqrt()], dim=1)


@dataclass(frozen=True, slots=True)
class _Part:
    """One layer of one window: how many frames, and (T, D) frames or (D or 2 D,) statistics."""

    count: int
    values: Tensor


def _parts(
    source: FrameSource,
    windows: Sequence[Window],
    waveforms: Tensor,
    lengths: Tensor,
    pooling: FeaturePooling,
) -> Iterator[tuple[Window, dict[str, _Part]]]:
    if not windows:
        return
    for rows, layers, num_frames in forward_in_parts(source, waveforms, lengths):
        members = windows[rows]
        kept = [
            _kept_frames(window, int(count), source.frame_rate)
            for window, count in zip(members, num_frames.tolist(), strict=True)
        ]
        by_layer = {
            name: _reduced(states.detach(), kept, pooling) for name, states in layers.items()
        }
        for row, window in enumerate(members):
            yield window, {name: parts[row] for name, parts in by_layer.items()}


def _kept_frames(window: Window, num_frames: int, frame_rate: float) -> range:
    """Frames of the window that the recording keeps."""
    first = round((window.keep_start_sec - window.start_sec) * frame_rate)
    if window.keep_stop_sec is None:
        return range(min(first, num_frames), num_frames)
    return range(first, round((window.keep_stop_sec - window.start_sec) * frame_rate))


def _reduced(states: Tensor, kept: Sequence[range], pooling: FeaturePooling) -> list[_Part]:
    """(B, T, D) to one part per window."""
    if pooling == "none":
        host = states.float().cpu()
        return [_Part(len(k), host[row, k.start : k.stop].clone()) for row, k in enumerate(kept)]
    filled = [row for row, frames in enumerate(kept) if len(frames)]
    parts = [_Part(0, torch.empty(0))] * len(kept)
    if filled:
        steps = states.shape[1]
        picked = [torch.arange(kept[row].start, kept[row].stop) + row * steps for row in filled]
        counts = torch.tensor([len(kept[row]) for row in filled], device=states.device)
        frames = torch.cat(picked).to(states.device)
        rows = pool(states.flatten(0, 1), frames, counts, pooling).cpu()
        for row, values in zip(filled, rows, strict=True):
            parts[row] = _Part(len(kept[row]), values)
    return parts


def _finished(
    index: int,
    name: str,
    parts: Sequence[Mapping[str, _Part]],
    failed: Mapping[int, str],
    pooling: FeaturePooling,
) -> Features | Failure:
    if index in failed:
        return Failure(index, name, failed[index])
    layer_names = list(parts[0])
    num_frames = sum(part[layer_names[0]].count for part in parts)
    if num_frames == 0:
        return Failure(index, name, f"{name}: too short for a single frame")
    layers = {layer: _joined([part[layer] for part in parts], pooling) for layer in layer_names}
    for layer, values in layers.items():
        if not bool(torch.isfinite(values).all()):
            return Failure(index, name, f"{name}: layer {layer} holds NaN or infinite values")
    return Features(index, name, layers, num_frames)


def _joined(parts: Sequence[_Part], pooling: FeaturePooling) -> Tensor:
    """What one window over all frames would have given."""
    parts = [part for part in parts if part.count]
    if len(parts) == 1:
        return parts[0].values
    if pooling == "none":
        return torch.cat([part.values for part in parts])
    counts = torch.tensor([part.count for part in parts], dtype=torch.float64)
    weights = (counts / counts.sum())[:, None]
    values = torch.stack([part.values for part in parts]).double()
    if pooling == "mean":
        return (weights * values).sum(0).float()
    means, stds = values.chunk(2, dim=1)
    mean = (weights * means).sum(0)
    variance = (weights * (stds.square() + (means - mean).square())).sum(0)
    return torch.cat([mean, variance.sqrt()]).float()


def _check_grid(frame_rate: float) -> None:
    frames = GRID_SEC * frame_rate
    if abs(frames - round(frames)) > 1e-6:
        raise ValueError(
            f"a recording is too long for one pass and cannot be cut: {frame_rate:g} Hz has no "
            f"whole frames in {GRID_SEC} s; ask for longer windows or cut the file"
        )
