"""Speaker diarization on frames: permutation-invariant loss, frame DER, segments.

Axes: B recordings, T frames, S speakers. Definitions: s3prl ``downstream/diarization/utils.py`` and
``make_rttm.py``. This DER selects models; published ones score the segments with a collar.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from ssl_audio.probes.metrics.events import runs
from ssl_audio.probes.metrics.separation import best_assignment


@dataclass(frozen=True, slots=True)
class DiarizationCounts:
    """Frame counts; speaker ones count a frame once for each speaker in it.

    Attributes:
        correct: decisions that are right, as frames (summed over speakers, divided by S).
        num_frames: valid frames.
        speech_scored, speech_miss, speech_false_alarm: frames where anybody speaks in the
            reference; where only the reference or only the system has speech.
        speaker_scored, speaker_miss, speaker_false_alarm: likewise for the number of speakers.
        speaker_error: speakers that were taken for another one.
    """

    correct: float
    num_frames: float
    speech_scored: float
    speech_miss: float
    speech_false_alarm: float
    speaker_scored: float
    speaker_miss: float
    speaker_false_alarm: float
    speaker_error: float

    def __add__(self, other: DiarizationCounts) -> DiarizationCounts:
        return DiarizationCounts(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(self))
        )

    @property
    def error_rate(self) -> float:
        """(miss + false alarm + confusion) / reference speech; NaN without reference speech."""
        errors = self.speaker_miss + self.speaker_false_alarm + self.speaker_error
        return errors / self.speaker_scored if self.speaker_scored else math.nan

    @property
    def accuracy(self) -> float:
        return self.correct / self.num_frames if self.num_frames else math.nan


@dataclass(frozen=True, slots=True)
class SpeakerSegment:
    """One run of a speaker's activity."""

    speaker: int
    start_sec: float
    duration_sec: float


def permutation_invariant_loss(
    logits: np.ndarray, labels: np.ndarray, lengths: np.ndarray
) -> tuple[float, np.ndarray]:
    """Binary cross-entropy under the best assignment of speakers to outputs.

    Args:
        logits: (B, T, S).
        labels: (B, T, S), 0 or 1.
        lengths: (B,) valid frames.

    Returns:
        Mean over speakers, summed over valid frames and divided by their number; and (B, S): the
        speaker for each output.
    """
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    valid = np.arange(logits.shape[1]) < np.asarray(lengths)[:, None]
    out, ref = logits[..., :, None], labels[..., None, :]
    loss = np.maximum(out, 0) - out * ref + np.log1p(np.exp(-np.abs(out)))
    cost = np.einsum("btij,bt->bij", loss, valid)  # output i as speaker j
    best, permutation = best_assignment(cost)
    num_frames = int(valid.sum())
    return float(best.sum()) / num_frames if num_frames else math.nan, permutation


def diarization_counts(
    logits: np.ndarray, labels: np.ndarray, lengths: np.ndarray
) -> DiarizationCounts:
    """Counts of the decisions ``logits`` > 0 against labels that already follow the outputs.

    Args:
        logits, labels, lengths: as ``permutation_invariant_loss``; put the labels in its order with
            ``np.take_along_axis(labels, permutation[:, None], axis=2)``.
    """
    valid = (np.arange(labels.shape[1]) < np.asarray(lengths)[:, None])[..., None]
    reference = (np.asarray(labels) > 0) & valid
    system = (np.asarray(logits) > 0) & valid
    num_ref, num_sys = reference.sum(-1), system.sum(-1)
    both = (reference & system).sum(-1)
    return DiarizationCounts(
        correct=float(((reference == system) & valid).sum() / labels.shape[2]),
        num_frames=float(valid.sum()),
        speech_scored=float((num_ref > 0).sum()),
        speech_miss=float(((num_ref > 0) & (num_sys == 0)).sum()),
        speech_false_alarm=float(((num_ref == 0) & (num_sys > 0)).sum()),
        speaker_scored=float(num_ref.sum()),
        speaker_miss=float(np.maximum(num_ref - num_sys, 0).sum()),
        speaker_false_alarm=float(np.maximum(num_sys - num_ref, 0).sum()),
        speaker_error=float((np.minimum(num_ref, num_sys) - both).sum()),
    )


def active_frames(
    probabilities: np.ndarray, *, threshold: float = 0.5, median_frames: int = 1
) -> np.ndarray:
    """(T, S) bool: probabilities strictly above ``threshold``, median-filtered.

    Args:
        probabilities: (T, S).
        threshold: of activity.
        median_frames: width of a median filter over the decisions, odd; silence lies beyond the
            ends. 1 is no filter.

    Raises:
        ValueError: an even width.
    """
    if median_frames < 1 or median_frames % 2 == 0:
        raise ValueError(f"median_frames must be odd and positive, got {median_frames}")
    active = np.asarray(probabilities) > threshold
    if not len(active):
        return active
    edge = median_frames // 2
    padded = np.pad(active, ((edge, edge), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, median_frames, axis=0)
    return windows.sum(-1) > edge


def speaker_segments(
    probabilities: np.ndarray, *, frame_sec: float, threshold: float = 0.5, median_frames: int = 1
) -> list[SpeakerSegment]:
    """Segments of ``active_frames``, speaker by speaker.

    Args:
        probabilities, threshold, median_frames: as there.
        frame_sec: seconds from frame to frame.
    """
    active = active_frames(probabilities, threshold=threshold, median_frames=median_frames)
    return [
        SpeakerSegment(speaker, start * frame_sec, (stop - start) * frame_sec)
        for speaker, frames in enumerate(active.T)
        for start, stop in runs(frames)
    ]
