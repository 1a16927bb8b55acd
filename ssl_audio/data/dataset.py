"""Loads planned samples; runs in the loader's workers."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ssl_audio.audio import AudioError
from ssl_audio.batch import AudioBatch
from ssl_audio.data.collate import Sample, collate
from ssl_audio.data.plan import PlannedSample
from ssl_audio.data.segments import Segments
from ssl_audio.data.source import Source
from ssl_audio.data.token_store import TokenStore
from ssl_audio.rng import sample_generator

MAX_ATTEMPTS = 20  # replacements tried for one sample
WINDOW = 200  # draws over which the fraction of bad ones is taken

log = logging.getLogger(__name__)


class BadDataError(ValueError):
    """Training cannot go on with this data; one line.

    A loader raises a worker's error again with the worker's traceback around its message; only the
    message, which is the last line, is kept.
    """

    def __init__(self, message: str) -> None:
        last = message.strip().splitlines()[-1]
        super().__init__(last.removeprefix(f"{__name__}.{type(self).__name__}: "))


class SegmentDataset(Dataset[AudioBatch | None]):
    """Turns planned samples into a batch.

    Args:
        source: the audio.
        segments: what the plan's segment ids mean.
        seed: of random crops.
        random_crops: crop a segment of a longer clip anywhere in the clip instead of at its place.
        replacement: another segment for a draw that cannot be read (``BatchPlan.replacement``).
            With ``None`` such samples are left out, and a batch that loses all is ``None``.
        max_bad_fraction: give up when more of the last 200 draws were bad.
        stores: stored tokens by teacher.
        bad_segments: (n,) uint8 in shared memory, set to 1 for segments that cannot be read.

    Raises:
        BadDataError: from loading, when too much is bad.
    """

    def __init__(
        self,
        source: Source,
        segments: Segments,
        *,
        seed: int,
        random_crops: bool = False,
        replacement: Callable[[PlannedSample, int], int] | None = None,
        max_bad_fraction: float = 0.5,
        stores: dict[str, TokenStore] | None = None,
        bad_segments: torch.Tensor | None = None,
    ) -> None:
        self.source = source
        self.segments = segments
        self.seed = seed
        self.random_crops = random_crops
        self.replacement = replacement
        self.max_bad_fraction = max_bad_fraction
        self.stores = stores or {}
        # One flag per segment in memory that all workers share; each only ever goes from 0 to 1.
        if bad_segments is None:
            bad_segments = torch.zeros(len(segments), dtype=torch.uint8).share_memory_()
        self.bad_segments = bad_segments
        self._recent: deque[bool] = deque(maxlen=WINDOW)

    def __len__(self) -> int:
        return len(self.segments)

    def __getitems__(self, samples: Sequence[PlannedSample]) -> AudioBatch | None:
        """The loader asks for a whole batch at once."""
        loaded = [sample for planned in samples if (sample := self._load(planned)) is not None]
        if not loaded:
            return None
        return collate(loaded, {name: s.num_codebooks for name, s in self.stores.items()})

    def _load(self, planned: PlannedSample) -> Sample | None:
        """The sample or its replacement; None when bad ones are left out."""
        segment, attempt, reason = planned.segment, 0, ""
        while True:
            try:
                waveform = self._read(segment, planned.sample_index)
            except (AudioError, OSError) as error:
                reason = str(error)
                self._report(segment, reason)
            else:
                self._recent.append(False)
                return self._sample(segment, planned.sample_index, waveform)
            if self.replacement is None:
                return None
            if attempt == MAX_ATTEMPTS:
                raise BadDataError(f"no replacement for {attempt} unreadable clips; last: {reason}")
            segment, attempt = self.replacement(planned, attempt), attempt + 1

    def _sample(self, segment: int, sample_index: int, waveform: np.ndarray) -> Sample:
        return Sample(
            id=self.segments.name(segment, self.source.clips),
            waveform=waveform,
            domain=int(self.segments.domain[segment]),
            sample_index=sample_index,
            codes={
                teacher: codes
                for teacher, store in self.stores.items()
                if (codes := store.get(segment)) is not None
            },
        )

    def _read(self, segment: int, sample_index: int) -> np.ndarray:
        clip = int(self.segments.clip[segment])
        start_sec = float(self.segments.start_sec[segment])
        duration_sec = float(self.segments.duration_sec[segment])
        if self.random_crops:
            slack_sec = self.source.clips[clip].duration_sec - duration_sec
            start_sec = slack_sec * sample_generator(self.seed, "crop", sample_index).random()
        return self.source.read(clip, start_sec, duration_sec)

    def _report(self, segment: int, reason: str) -> None:
        """Count a bad segment, name it once, and give up when there are too many."""
        if not self.bad_segments[segment]:
            self.bad_segments[segment] = 1
            log.warning("skipped: %s", reason)
        self._recent.append(True)
        bad = sum(self._recent)
        if len(self._recent) == WINDOW and bad > self.max_bad_fraction * WINDOW:
            raise BadDataError(
                f"{bad} of the last {WINDOW} clips cannot be read, more than data.max_bad_fraction="
                f"{self.max_bad_fraction}; the last: {reason}"
            )


def already_collated(batch: Any) -> Any:
    """The loader's ``collate_fn``. It stands here so that spawned workers import no Lightning."""
    return batch
