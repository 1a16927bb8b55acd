"""Where do segments meet? A linear detector on single frames, its peaks against true boundaries.

Axes: N frames, C clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ssl_audio.probes.metrics.boundaries import count_matches
from ssl_audio.probes.suite import Example, ProbeTask, limit_clips

FRAME_SEC = 0.02  # the grid that boundaries and peaks lie on, whatever is probed
BOUNDARY, INSIDE = "boundary", "inside"
MAX_CLIPS = {"train": 60, "valid": 20, "test": 40}  # all their frames are kept
TOLERANCE_FRAMES = 1
THRESHOLDS = tuple(np.arange(1, 20) / 20)
SUFFIX = "_boundaries"


def boundary_task(
    name: str, segments: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
) -> ProbeTask:
    """A task of every frame between a clip's first and last boundary.

    Args:
        name: of the labelled task; this one is called ``NAME_boundaries``.
        segments: split to clip to (start, end) in seconds; both ends are boundaries.
    """
    task = f"{name}{SUFFIX}"
    examples = {}
    for split, by_clip in segments.items():
        frames = [e for clip, times in by_clip.items() for e in _frames(clip, times)]
        examples[split] = tuple(limit_clips(frames, MAX_CLIPS[split], f"{task}/{split}"))
    return ProbeTask(task, "boundary", examples)


def _frames(clip: str, segments: Sequence[tuple[float, float]]) -> list[Example]:
    if not segments:
        return []
    hits = {int(time / FRAME_SEC + 1e-6) for pair in segments for time in pair}
    return [
        Example(
            clip,
            BOUNDARY if index in hits else INSIDE,
            round(index * FRAME_SEC, 4),
            round((index + 1) * FRAME_SEC, 4),
        )
        for index in range(min(hits), max(hits) + 1)
    ]


def peaks(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Frames (N,) of a clip above ``threshold`` that no neighbour exceeds; of equals the first."""
    padded = np.concatenate([[-np.inf], probabilities, [-np.inf]])
    rises, falls = padded[1:-1] > padded[:-2], padded[1:-1] >= padded[2:]
    return np.flatnonzero(rises & falls & (probabilities >= threshold))


def count_hits(
    probabilities: np.ndarray, examples: Sequence[Example], threshold: float
) -> tuple[list[str], np.ndarray]:
    """Matches of peaks with true boundaries, one to one and at most one frame apart.

    Args:
        probabilities: (N,) of a boundary in each example's frame.
        examples: in order of clip and time.

    Returns:
        The clips, and (C, 3) numbers of hits, true boundaries and peaks.
    """
    starts = [i for i, e in enumerate(examples) if i == 0 or e.clip != examples[i - 1].clip]
    counts = []
    for first, stop in zip(starts, [*starts[1:], len(examples)], strict=True):
        true = [float(i) for i, e in enumerate(examples[first:stop]) if e.label == BOUNDARY]
        found = peaks(probabilities[first:stop], threshold).astype(float).tolist()
        counts.append((count_matches(true, found, TOLERANCE_FRAMES), len(true), len(found)))
    return [examples[first].clip for first in starts], np.array(counts, dtype=np.float64)


def f1_score(counts: np.ndarray) -> float:
    """Harmonic mean of precision and recall of (..., 3) counts summed over clips; 0 for none."""
    hits, true, found = counts.reshape(-1, 3).sum(0)
    return float(2 * hits / max(1, true + found))


def f1_interval(counts: np.ndarray, seed: int, num_draws: int = 1000) -> tuple[float, float]:
    """95 % percentile interval of the F1 when clips (C, 3) are drawn with replacement."""
    weights = np.random.default_rng(seed).multinomial(
        len(counts), np.full(len(counts), 1 / len(counts)), size=num_draws
    )
    sums = weights @ counts
    values = 2 * sums[:, 0] / np.maximum(1, sums[:, 1] + sums[:, 2])
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
