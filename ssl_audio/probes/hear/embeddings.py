"""Embeddings of a HEAR task: one vector per clip, or frames with their times; cached."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssl_audio import audio
from ssl_audio.files import replacing
from ssl_audio.probes.hear.folder import HearClip, HearTask
from ssl_audio.probes.hear.protocol import Embeddings, Problem
from ssl_audio.probes.hear.scoring import FileFrames
from ssl_audio.probes.metrics.events import frame_targets
from ssl_audio.probes.recordings import Recording
from ssl_audio.probes.sources import FrameSource
from ssl_audio.probes.stream import EXTRACTOR, Failure, FeaturePooling, iter_features


@dataclass(frozen=True, slots=True)
class Embedder:
    """Turns clips into embeddings.

    A scene is the mean over a clip's valid frames, an event's frame is what the source gives.
    Layers of a source with several are joined along D.

    Args:
        source: an encoder's layers or a baseline.
        batch_sec: padded seconds in a batch.
        cache_dir: where embeddings of a split are kept between runs; None keeps none.
    """

    source: FrameSource
    batch_sec: float = 60.0
    cache_dir: Path | None = None

    def split(self, task: HearTask, name: str) -> tuple[Embeddings, list[str]]:
        """Embeddings and targets of one split or fold, and one line for each clip left out.

        Raises:
            ValueError: no clip of the split can be used.
        """
        clips = task.splits[name]
        stored, failures = self._vectors(clips, task.problem.is_event)
        usable = [clip for clip in clips if clip.name in stored]
        if not usable:
            raise ValueError(f"no clip of split {name!r} can be used; the first: {failures[0]}")
        make = self._events if task.problem.is_event else _scenes
        return make(usable, stored, task.problem), failures

    def _vectors(
        self, clips: Sequence[HearClip], is_event: bool
    ) -> tuple[dict[str, Tensor], list[str]]:
        """(D,) or (T, D) by clip name, from the cache if it holds all that can be had."""
        path = self._cache_path(clips, is_event)
        if path is not None and path.is_file():
            try:
                return load_file(path), _failures_of(path)
            except (SafetensorError, OSError):
                path.unlink()  # cut off by a full disk, say: made anew below
        stored, failures = self._computed(clips, is_event)
        if path is not None and stored:
            with replacing(path) as temporary:
                save_file(stored, temporary)
            _failure_file(path).write_text("\n".join(failures), encoding="utf-8")
        return stored, failures

    def _computed(
        self, clips: Sequence[HearClip], is_event: bool
    ) -> tuple[dict[str, Tensor], list[str]]:
        recordings, failures = [], []
        for clip in clips:
            try:
                duration = audio.info(clip.path).duration_sec
            except audio.AudioError as error:
                failures.append(str(error))
                continue
            recordings.append(Recording(clip.name, duration, partial(audio.read, clip.path)))
        stored = {}
        pooling: FeaturePooling = "none" if is_event else "mean"
        for found in iter_features(
            self.source, recordings, pooling=pooling, batch_sec=self.batch_sec
        ):
            if isinstance(found, Failure):
                failures.append(found.reason)
            else:
                stored[found.id] = torch.cat(list(found.layers.values()), dim=-1)
        return stored, failures

    def _events(
        self, clips: Sequence[HearClip], stored: dict[str, Tensor], problem: Problem
    ) -> Embeddings:
        files, targets = [], []
        first = 0
        for clip in clips:
            frames = len(stored[clip.name])
            times = self.timestamps_ms(frames)
            files.append(FileFrames(clip.name, first, first + frames, times))
            targets.append(frame_targets(clip.events, times, problem.labels))
            first += frames
        return Embeddings(
            torch.cat([stored[clip.name] for clip in clips]),
            np.concatenate(targets),
            tuple(files),
            {clip.name: clip.events for clip in clips},
        )

    def timestamps_ms(self, num_frames: int) -> np.ndarray:
        """(T,) centres of the frames of a clip, from the encoder's own front end."""
        centres = (np.arange(num_frames) + 0.5) / self.source.frame_rate
        return 1000.0 * (self.source.frame_offset_sec + centres)

    def _cache_path(self, clips: Sequence[HearClip], is_event: bool) -> Path | None:
        if self.cache_dir is None:
            return None
        files = [(str(c.path), _size(c.path)) for c in clips]
        parts = ("hear", EXTRACTOR, self.source.key, is_event, "soxr HQ", files)
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
        return self.cache_dir / f"{digest}.safetensors"


def _scenes(clips: Sequence[HearClip], stored: dict[str, Tensor], problem: Problem) -> Embeddings:
    column = {label: index for index, label in enumerate(problem.labels)}
    targets = np.zeros((len(clips), len(problem.labels)), dtype=np.uint8)
    for row, clip in enumerate(clips):
        targets[row, [column[label] for label in clip.labels]] = 1
    return Embeddings(torch.stack([stored[clip.name] for clip in clips]), targets)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _failure_file(path: Path) -> Path:
    return path.with_suffix(".failures.txt")


def _failures_of(path: Path) -> list[str]:
    file = _failure_file(path)
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
