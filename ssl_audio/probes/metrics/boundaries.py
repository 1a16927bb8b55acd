"""How well predicted segments agree with reference ones: boundaries, matching, coding.

Protocol of SD-HuBERT and Sylber (cheoljun95/sdhubert at 3c98c02): boundaries of the reference are
starts and ends, those of a prediction its starts alone; a shift of the reference that serves a
validation set best makes up for where an encoder's frames lie.

Axes: n reference segments, m predicted segments, both (n, 2) [start, end) in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TOLERANCE_SEC = 0.05  # inclusive
SHIFTS_SEC = tuple(ms / 1000 for ms in range(-50, 50, 5))
ROUNDING_SEC = 1e-9  # below any frame, above what sums of seconds lose
IOU_EPS = 1e-4  # added to the union


@dataclass(frozen=True, slots=True)
class BoundaryScore:
    """Counts over all utterances, and what follows from them; NaN where a count is 0."""

    num_hits: int
    num_reference: int
    num_predicted: int

    @property
    def precision(self) -> float:
        return self.num_hits / self.num_predicted if self.num_predicted else math.nan

    @property
    def recall(self) -> float:
        return self.num_hits / self.num_reference if self.num_reference else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0 without a hit."""
        total = self.num_predicted + self.num_reference
        return 2 * self.num_hits / total if total else math.nan

    @property
    def over_segmentation(self) -> float:
        """Recall / precision - 1: how many boundaries too many, relative."""
        if not self.num_reference or not self.num_predicted:
            return math.nan
        return self.num_predicted / self.num_reference - 1

    @property
    def r_value(self) -> float:
        """1 at best; punishes over-segmentation (Räsänen et al., Interspeech 2009)."""
        recall, over = self.recall, self.over_segmentation
        to_ideal = math.hypot(1 - recall, over)
        to_line = (recall - 1 - over) / math.sqrt(2)
        return 1 - (to_ideal + abs(to_line)) / 2


def boundary_score(
    reference: Sequence[np.ndarray],
    predicted: Sequence[np.ndarray],
    tolerance_sec: float = TOLERANCE_SEC,
    shift_sec: float = 0.0,
) -> BoundaryScore:
    """Boundaries matched one to one in order of time, over utterances.

    Args:
        reference, predicted: (n, 2) and (m, 2) for each utterance.
        tolerance_sec: most distance of a match, inclusive.
        shift_sec: added to the reference.
    """
    hits = num_reference = num_predicted = 0
    for segments, found in zip(reference, predicted, strict=True):
        true = _distinct(np.reshape(segments, -1)) + shift_sec
        guess = _distinct(np.reshape(found, (-1, 2))[:, 0])
        hits += count_matches(true.tolist(), guess.tolist(), tolerance_sec + ROUNDING_SEC)
        num_reference += len(true)
        num_predicted += len(guess)
    return BoundaryScore(hits, num_reference, num_predicted)


def best_shift(
    reference: Sequence[np.ndarray],
    predicted: Sequence[np.ndarray],
    tolerance_sec: float = TOLERANCE_SEC,
    shifts_sec: Sequence[float] = SHIFTS_SEC,
) -> float:
    """The first of the shifts with the highest R-value, seconds; 0 where no shift has a value."""
    values = [boundary_score(reference, predicted, tolerance_sec, s).r_value for s in shifts_sec]
    if all(map(math.isnan, values)):
        return 0.0
    return shifts_sec[int(np.nanargmax(values))]


def match_segments(reference: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(min(n, m), 2) int64 pairs of rows of (n, 2) and (m, 2) with the largest total overlap.

    Hungarian matching of intersection over union; the intersection of segments that do not touch is
    negative, as in the original.
    """
    from scipy.optimize import linear_sum_assignment

    true, guess = np.reshape(reference, (-1, 1, 2)), np.reshape(predicted, (1, -1, 2))
    both = np.minimum(true[..., 1], guess[..., 1]) - np.maximum(true[..., 0], guess[..., 0])
    union = np.maximum(true[..., 1], guess[..., 1]) - np.minimum(true[..., 0], guess[..., 0])
    rows, columns = linear_sum_assignment(both / (union + IOU_EPS), maximize=True)
    return np.stack([rows, columns], axis=1).astype(np.int64)


def coding_rate(word_error_rate: float, num_words: int, num_bits: float) -> float:
    """Words understood per bit: (1 - WER) * words / bits; the error rate is a fraction."""
    return (1 - word_error_rate) * num_words / num_bits if num_bits > 0 else math.nan


def _distinct(times: np.ndarray) -> np.ndarray:
    """Ascending, those that differ by no more than rounding taken for one."""
    return np.unique(np.round(np.asarray(times, np.float64) / ROUNDING_SEC)) * ROUNDING_SEC


def count_matches(true: list[float], guess: list[float], tolerance: float) -> int:
    """Pairs at most ``tolerance`` apart of two ascending lists; an unmatched earlier one is given
    up."""
    hits = i = j = 0
    while i < len(true) and j < len(guess):
        if abs(true[i] - guess[j]) <= tolerance:
            hits, i, j = hits + 1, i + 1, j + 1
        elif true[i] < guess[j]:
            i += 1
        else:
            j += 1
    return hits
