"""Features and targets of a split.

Axes: N clips, R rows (crops or frames), D channels, C labels, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_audio.probes.embeddings import Extraction
from ssl_audio.probes.metrics.events import frame_targets
from ssl_audio.probes.recordings import Recording
from ssl_audio.probes.xares.tars import Sample
from ssl_audio.probes.xares.task import Recipe, XaresTask


@dataclass(frozen=True, slots=True)
class Rows:
    """One split or several.

    Attributes:
        x: (R, D) float32: means of crops, or frames.
        targets: (R, C) uint8.
        clips: (R,) number of the clip that a row comes from, ascending from 0.
    """

    x: Tensor
    targets: np.ndarray
    clips: np.ndarray

    @property
    def num_clips(self) -> int:
        return int(self.clips[-1]) + 1 if len(self.clips) else 0


def rows_of(task: XaresTask, split: str, extraction: Extraction) -> tuple[Rows, list[str]]:
    """Features and targets of a split, and one line for each sample left out.

    Raises:
        ValueError: no sample of the split can be used.
    """
    samples, recipe = task.splits[split], task.recipe
    is_frames = recipe.kind == "frames"
    stored, failures = extraction.run(
        samples,
        lambda sample: _crops(sample, recipe),
        lambda sample: (str(sample.tar), sample.offset, sample.size, recipe.crop_sec),
        "none" if is_frames else "mean",
    )
    x: list[Tensor] = []
    targets: list[np.ndarray] = []
    clips: list[np.ndarray] = []
    for sample in samples:
        number = 0
        found = []
        while (vector := stored.get(f"{sample.id}#{number}")) is not None:
            found.append(vector)
            number += 1
        if not found:
            continue
        rows = found[0] if is_frames else torch.stack(found)
        x.append(rows)
        if is_frames:
            times = extraction.timestamps_ms(len(rows))
            targets.append(frame_targets(task.events_of(sample), times, task.labels))
        else:
            row = np.isin(task.labels, task.labels_of(sample)).astype(np.uint8)
            targets.append(np.tile(row, (len(rows), 1)))
        clips.append(np.full(len(rows), len(clips)))
    if not x:
        why = f"; the first: {failures[0]}" if failures else ", there is none"
        raise ValueError(f"no sample of split {split!r} can be used{why}")
    return Rows(torch.cat(x), np.concatenate(targets), np.concatenate(clips)), failures


def joined(parts: Sequence[Rows]) -> Rows:
    """Splits one after the other."""
    clips, first = [], 0
    for part in parts:
        clips.append(part.clips + first)
        first += part.num_clips
    return Rows(
        torch.cat([part.x for part in parts]),
        np.concatenate([part.targets for part in parts]),
        np.concatenate(clips),
    )


def _crops(sample: Sample, recipe: Recipe) -> list[Recording]:
    """Whole stretches of ``crop_sec``; a clip shorter than one is its own, as long as it is."""
    duration = sample.duration_sec
    crop = min(recipe.crop_sec or duration, duration)
    return [_crop(sample, number, crop) for number in range(int(duration / crop + 1e-6))]


def _crop(sample: Sample, number: int, crop: float) -> Recording:
    def read(start_sec: float, duration_sec: float | None) -> np.ndarray:
        length = crop - start_sec if duration_sec is None else duration_sec
        return sample.read(number * crop + start_sec, length)

    return Recording(f"{sample.id}#{number}", crop, read)
