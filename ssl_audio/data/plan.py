"""The order of the data: a pure function of the seed and the global micro-batch index.

Nothing here has a position, so nothing has to be saved: a run that has trained m micro-batches goes
on with ``plan.batch(m)``, whatever the number of workers, ranks or accumulation steps.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from ssl_audio.data.segments import DOMAINS
from ssl_audio.rng import sample_generator

MIN_BATCHES_PER_BUCKET = 4  # fewer, and rounding to whole batches would waste the budget
REPLACEMENTS_IN_BUCKET = 4  # tries in a segment's own bucket before shorter ones are tried


class PlannedSample(NamedTuple):
    """A segment to load, and the draw's position in the run (``AudioBatch.sample_index``)."""

    segment: int
    sample_index: int


class Plan(Protocol):
    """An endless order of micro-batches."""

    def batch(self, index: int) -> list[PlannedSample]:
        """Micro-batch ``index`` >= 0 of the run, counted over all ranks."""

    def replacement(self, sample: PlannedSample, attempt: int) -> int:
        """A segment to take instead of one that cannot be read."""


class BatchPlan:
    """Endless shuffled micro-batches of segments of similar duration, filled by seconds.

    An epoch draws every segment of a domain ``weights[domain]`` times (1 = once; 1.7 = once or
    twice, evenly over the epochs) and has ``batches_per_epoch`` batches, always the same number.
    Inside an epoch the batches of all duration buckets come in random order; a batch mixes domains.

    Args:
        durations_sec: (n,) seconds of each segment.
        domains: (n,) ``SPEECH`` or ``AUDIO``.
        batch_sec: most seconds in a padded batch: clips times the longest clip.
        num_buckets: how many duration buckets at most; small data gets fewer.
        weights: passes over each domain in an epoch; 0 leaves it out. 1 by default.
        seed: >= 0.
        max_batch: most clips in a batch, for data with very short clips.
        segments: ids (into ``durations_sec``) to draw from; all by default.

    Raises:
        ValueError: nothing to draw, a segment longer than ``batch_sec``, or a bad setting.
    """

    def __init__(
        self,
        durations_sec: np.ndarray,
        domains: np.ndarray,
        *,
        batch_sec: float,
        num_buckets: int = 20,
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
        max_batch: int | None = None,
        segments: np.ndarray | None = None,
    ) -> None:
        self.seed = seed
        weights = dict(weights or {})
        _check(weights, seed, num_buckets, max_batch)
        ids = np.arange(len(durations_sec)) if segments is None else np.sort(segments)
        passes = np.zeros(len(DOMAINS))
        for name, domain in DOMAINS.items():
            passes[domain] = weights.get(name, 1.0)
        ids = ids[passes[domains[ids]] > 0]
        if not len(ids):
            raise ValueError(f"nothing to draw with data.weights={weights}; give a domain weight")
        durations = durations_sec[ids]
        longest = float(durations.max())
        if longest > batch_sec:
            raise ValueError(
                f"a segment of {longest:.2f} s does not fit data.batch_sec={batch_sec}; "
                "raise data.batch_sec or lower data.max_sec"
            )
        useful = int(durations.sum() / (MIN_BATCHES_PER_BUCKET * batch_sec))
        self._bucket_of_id = np.full(len(durations_sec), -1, dtype=np.int16)
        self._buckets: list[_Bucket] = []
        bucket = _assign(durations, max(1, min(num_buckets, useful)))
        for b in np.unique(bucket):
            inside = bucket == b
            capacity = int(batch_sec // durations[inside].max())
            self._bucket_of_id[ids[inside]] = len(self._buckets)
            self._buckets.append(
                _Bucket(
                    members=tuple(ids[inside & (domains[ids] == d)] for d in range(len(DOMAINS))),
                    passes=passes,
                    capacity=min(capacity, max_batch or capacity),
                )
            )
        draws = [bucket.draws_per_epoch for bucket in self._buckets]
        self.draws_per_epoch = sum(draws)
        self.batches_per_epoch = sum(bucket.batches_per_epoch for bucket in self._buckets)
        self._first_draw = np.cumsum([0, *draws])
        self._slots = np.array(
            [
                (b, j)
                for b, bucket in enumerate(self._buckets)
                for j in range(bucket.batches_per_epoch)
            ]
        )
        self._cache: OrderedDict[tuple[str, int, int], np.ndarray] = OrderedDict()

    def batch(self, index: int) -> list[PlannedSample]:
        """Micro-batch ``index`` >= 0 of the run, counted over all ranks."""
        epoch, slot = divmod(index, self.batches_per_epoch)
        b, j = self._slots[self._permutation("batches", epoch, 0, len(self._slots))[slot]]
        bucket, draws = self._buckets[b], self._draws(epoch, b)
        start, stop = (
            len(draws) * edge // bucket.batches_per_epoch for edge in (int(j), int(j) + 1)
        )
        first_index = epoch * self.draws_per_epoch + int(self._first_draw[b])
        return [PlannedSample(int(draws[i]), first_index + i) for i in range(start, stop)]

    def replacement(self, sample: PlannedSample, attempt: int) -> int:
        """A segment to take instead of one that cannot be read; no longer than its bucket allows.

        A function of the draw and of ``attempt`` = 0, 1, ..., so every run replaces it alike.
        """
        last = int(self._bucket_of_id[sample.segment])
        rng = sample_generator(self.seed, f"replacement {attempt}", sample.sample_index)
        b = last if attempt < REPLACEMENTS_IN_BUCKET else int(rng.integers(last + 1))
        members = np.concatenate(self._buckets[b].members)
        return int(members[rng.integers(len(members))])

    def _draws(self, epoch: int, b: int) -> np.ndarray:
        """Segment ids drawn from bucket ``b`` in ``epoch``, shuffled."""
        key = ("draws", epoch, b)
        if key not in self._cache:
            bucket, parts = self._buckets[b], []
            for domain, (ids, count) in enumerate(
                zip(bucket.members, bucket.draws_of_domain, strict=True)
            ):
                stream = b * len(DOMAINS) + domain
                parts.append(ids[self._stream(stream, len(ids), epoch * count, count)])
            draws = np.concatenate(parts)
            order = sample_generator(self.seed, f"bucket {b}", epoch).permutation(len(draws))
            self._remember(key, draws[order])
        return self._cache[key]

    def _stream(self, stream: int, size: int, start: int, count: int) -> np.ndarray:
        """Positions ``start`` to ``start + count`` of endless shuffled passes over ``size``."""
        if count == 0:
            return np.zeros(0, dtype=np.int64)
        first, last = start // size, (start + count - 1) // size
        passes = [
            sample_generator(self.seed, f"pass {stream}", p).permutation(size)
            for p in range(first, last + 1)
        ]
        offset = start - first * size
        return np.concatenate(passes)[offset : offset + count]

    def _permutation(self, purpose: str, epoch: int, stream: int, size: int) -> np.ndarray:
        key = (purpose, epoch, stream)
        if key not in self._cache:
            self._remember(key, sample_generator(self.seed, purpose, epoch).permutation(size))
        return self._cache[key]

    def _remember(self, key: tuple[str, int, int], value: np.ndarray) -> None:
        """Keep this epoch and the one before: prefetching crosses the boundary."""
        self._cache[key] = value
        while len(self._cache) > 2 * (len(self._buckets) + 1):
            self._cache.popitem(last=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": OrderedDict()}


class _Bucket:
    """Segments of similar duration: ids per domain, and how an epoch draws from them."""

    def __init__(self, members: tuple[np.ndarray, ...], passes: np.ndarray, capacity: int) -> None:
        self.members = members
        self.draws_of_domain = [
            max(1, round(weight * len(ids))) if len(ids) else 0
            for ids, weight in zip(members, passes, strict=True)
        ]
        self.draws_per_epoch = sum(self.draws_of_domain)
        self.batches_per_epoch = -(-self.draws_per_epoch // capacity)


def _assign(durations: np.ndarray, num_buckets: int) -> np.ndarray:
    """Bucket of each segment; buckets hold about the same number of seconds."""
    ordered = np.sort(durations)
    seconds = np.cumsum(ordered)
    cuts = np.searchsorted(seconds, seconds[-1] * np.arange(1, num_buckets) / num_buckets)
    return np.searchsorted(np.unique(ordered[cuts]), durations, side="left")


def _check(
    weights: Mapping[str, float], seed: int, num_buckets: int, max_batch: int | None
) -> None:
    if not set(weights) <= set(DOMAINS) or min(weights.values(), default=0) < 0:
        raise ValueError(
            f"data.weights={dict(weights)}: give each of speech and audio a number >= 0"
        )
    if seed < 0:
        raise ValueError(f"seed={seed} is negative; take one >= 0")
    if num_buckets < 1 or (max_batch is not None and max_batch < 1):
        raise ValueError(
            f"data.num_buckets={num_buckets}, data.max_batch={max_batch}: both are at least 1"
        )
