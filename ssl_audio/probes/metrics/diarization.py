"""Speaker diarization: permutation-invariant loss, errors of frames, segments and their errors.

Axes: B recordings, T frames, S speakers. Definitions: s3prl ``downstream/diarization/utils.py`` and
``make_rttm.py`` for frames, which select models; published error rates are of segments, by
``score.sh`` with dscore (github.com/nryant/dscore), that is NIST's md-eval-22.pl without a collar.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from ssl_audio.probes.metrics.events import runs
from ssl_audio.probes.metrics.separation import best_assignment

RTTM_DECIMALS = 2  # of the seconds in the files that are scored


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


def segment_errors(
    reference: Sequence[SpeakerSegment], system: Sequence[SpeakerSegment], num_speakers: int
) -> tuple[float, float]:
    """(seconds missed, falsely alarmed or of another speaker; seconds of speech) of a recording.

    Overlapping speech counts once for each speaker, there is no collar, system speakers stand for
    the reference ones that they share the most time with, and times are rounded as in RTTM files.

    Args:
        reference, system: speakers count from 0 to ``num_speakers`` - 1 in both.
        num_speakers: at most so many.
    """
    spans = [
        [(s.speaker, *_rttm_times(s)) for s in segments if round(s.duration_sec, RTTM_DECIMALS) > 0]
        for segments in (reference, system)
    ]
    times = np.unique([time for side in spans for _, *ends in side for time in ends])
    active = np.zeros((2, max(0, len(times) - 1), num_speakers), dtype=bool)
    for side, found in enumerate(spans):
        for speaker, start, stop in found:
            active[side, (times[:-1] >= start) & (times[:-1] < stop), speaker] = True
    seconds = np.diff(times)
    num_ref, num_sys = active.sum(2)
    shared = np.einsum("tr,ts,t->rs", *active, seconds)
    correct = -num_speakers * best_assignment(-shared[None])[0][0]
    errors = float((np.maximum(num_ref, num_sys) * seconds).sum() - correct)
    return errors, float((num_ref * seconds).sum())


def _rttm_times(segment: SpeakerSegment) -> tuple[float, float]:
    start = round(segment.start_sec, RTTM_DECIMALS)
    return start, round(start + round(segment.duration_sec, RTTM_DECIMALS), RTTM_DECIMALS)


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
