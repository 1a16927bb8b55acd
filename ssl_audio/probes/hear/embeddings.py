"""Embeddings of a HEAR task: one vector per clip, or frames with their times; cached."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ssl_audio import audio
from ssl_audio.probes.embeddings import Extraction
from ssl_audio.probes.hear.folder import HearClip, HearTask
from ssl_audio.probes.hear.protocol import Embeddings, Problem
from ssl_audio.probes.hear.scoring import FileFrames
from ssl_audio.probes.metrics.events import frame_targets
from ssl_audio.probes.recordings import Recording
from ssl_audio.probes.stream import FeaturePooling


class Embedder(Extraction):
    """Turns clips into embeddings.

    A scene is the mean over a clip's valid frames, an event's frame is what the source gives.
    """

    def split(self, task: HearTask, name: str) -> tuple[Embeddings, list[str]]:
        """Embeddings and targets of one split or fold, and one line for each clip left out.

        Raises:
            ValueError: no clip of the split can be used.
        """
        clips = task.splits[name]
        pooling: FeaturePooling = "none" if task.problem.is_event else "mean"
        stored, failures = self.run(clips, _opened, _identity, pooling)
        usable = [clip for clip in clips if clip.name in stored]
        if not usable:
            raise ValueError(f"no clip of split {name!r} can be used; the first: {failures[0]}")
        make = self._events if task.problem.is_event else _scenes
        return make(usable, stored, task.problem), failures

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


def _scenes(clips: Sequence[HearClip], stored: dict[str, Tensor], problem: Problem) -> Embeddings:
    column = {label: index for index, label in enumerate(problem.labels)}
    targets = np.zeros((len(clips), len(problem.labels)), dtype=np.uint8)
    for row, clip in enumerate(clips):
        targets[row, [column[label] for label in clip.labels]] = 1
    return Embeddings(torch.stack([stored[clip.name] for clip in clips]), targets)


def _opened(clip: HearClip) -> list[Recording]:
    duration_sec = audio.info(clip.path).duration_sec
    return [Recording(clip.name, duration_sec, partial(audio.read, clip.path))]


def _identity(clip: HearClip) -> tuple[str, int]:
    return str(clip.path), clip.path.stat().st_size if clip.path.is_file() else -1
