"""How well syllables are found: recordings with syllable times, and the scores of a segmentation.

Ground truth is either a folder task with segments (``probes.folder``) or the demo corpus, whose
synthesiser knows its phones.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ssl_audio import audio
from ssl_audio.probes.demo import SILENCE, read_rows
from ssl_audio.probes.folder import FolderLimits, folder_suite
from ssl_audio.probes.metrics.boundaries import (
    TOLERANCE_SEC,
    best_shift,
    boundary_score,
    match_segments,
)
from ssl_audio.probes.metrics.token_quality import label_agreement, token_rate
from ssl_audio.probes.recordings import Recording
from ssl_audio.probes.token_stream import TokenSequence, TokenTotals

MIN_TIME_SEC = 1e-4  # phones of one word that lie closer touch


@dataclass(frozen=True, slots=True)
class SyllableRecording:
    """A recording and its syllables: ``segments`` (n, 2) seconds, and a label of each."""

    recording: Recording
    segments: np.ndarray
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SegmentationScore:
    """Scores of one segmentation.

    Attributes:
        precision, recall, f1, over_segmentation, r_value: of boundaries, pooled over utterances.
        shift_sec: added to the reference, chosen on the validation recordings.
        syllable_purity, cluster_purity, mutual_information_nats: of units against labels over
            matched segments; NaN without units.
        reference_per_sec: syllables of the reference.
        tokens_per_sec, bits_per_sec: of the segments found; bits are NaN without units.
    """

    precision: float
    recall: float
    f1: float
    over_segmentation: float
    r_value: float
    shift_sec: float
    syllable_purity: float
    cluster_purity: float
    mutual_information_nats: float
    reference_per_sec: float
    tokens_per_sec: float
    bits_per_sec: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def folder_syllables(root: str | Path, task: str, split: str) -> list[SyllableRecording]:
    """Recordings of a split of a folder task whose segments are syllables.

    Raises:
        ValueError: as ``folder_suite``, or the task has no segments.
    """
    suite = folder_suite(root, [task], FolderLimits(None, None, None, None))
    if suite.tasks[0].unit != "segment":
        raise ValueError(f"{root}: task {task!r} has no segments; choose one with start and end")
    spans = defaultdict(list)
    for example in suite.tasks[0].examples[split]:
        spans[example.clip].append((example.start_sec, example.end_sec, example.label))
    found = []
    for name, rows in sorted(spans.items()):
        clip, ordered = suite.clips[name], sorted(rows)
        read = partial(audio.read, clip.source, name=name)
        found.append(
            SyllableRecording(
                Recording(name, clip.duration_sec, read),
                np.array([row[:2] for row in ordered], np.float64),
                tuple(row[2] for row in ordered),
            )
        )
    return found


def demo_syllables(directory: str | Path, split: str) -> list[SyllableRecording]:
    """Speech of a split of the demo corpus, with the syllables that its phones make up.

    Raises:
        ValueError: no demo corpus there.
    """
    found = []
    for row in read_rows(Path(directory)):
        if row["split"] != split or not row["phones"]:
            continue
        spans = syllables_of_phones(row["words"], row["phones"], row["nuclei"])
        read = partial(audio.read, row["audio"]["bytes"], name=row["id"])
        duration_sec = row["num_samples"] / row["sample_rate_hz"]
        found.append(
            SyllableRecording(
                Recording(row["id"], duration_sec, read),
                np.array([span[:2] for span in spans], np.float64).reshape(-1, 2),
                tuple(span[2] for span in spans),
            )
        )
    return found


def syllables_of_phones(
    words: Sequence[Mapping[str, Any]],
    phones: Sequence[Mapping[str, Any]],
    nuclei: Sequence[Mapping[str, Any]],
) -> list[tuple[float, float, str]]:
    """Syllables (start, end, phones) in seconds: one per nucleus of a word.

    Inside a word, one consonant before a nucleus belongs to it and those before that to the nucleus
    before; the consonants at both ends of the word go to its first and last nucleus. The rule is
    that of most languages for single consonants; a cluster such as "str" is cut in its middle.
    Words without a nucleus join no syllable.
    """
    vowels = {(nucleus["start_sec"], nucleus["end_sec"]) for nucleus in nuclei}
    found = []
    for word in words:
        inside = [
            phone
            for phone in phones
            if phone["label"] != SILENCE
            and word["start_sec"] - MIN_TIME_SEC <= phone["start_sec"]
            and phone["end_sec"] <= word["end_sec"] + MIN_TIME_SEC
        ]
        at = [i for i, x in enumerate(inside) if (x["start_sec"], x["end_sec"]) in vowels]
        onsets = [max(i - 1, previous + 1) for previous, i in itertools.pairwise(at)]
        for first, last in zip([0, *onsets], [*onsets, len(inside)], strict=True):
            part = inside[first:last] if at else []
            if part:
                label = "".join(phone["label"] for phone in part)
                found.append((part[0]["start_sec"], part[-1]["end_sec"], label))
    return found


def score_segmentation(
    truth: Sequence[SyllableRecording],
    found: Mapping[str, TokenSequence],
    valid_truth: Sequence[SyllableRecording] = (),
    valid_found: Mapping[str, TokenSequence] | None = None,
    *,
    codebook_size: int = 0,
    tolerance_sec: float = TOLERANCE_SEC,
) -> SegmentationScore:
    """Scores on test recordings, after the shift that serves validation recordings best.

    Args:
        truth: test recordings.
        found: segments by recording id; a recording without counts as one without segments.
        valid_truth, valid_found: to choose the shift with; without them there is none.
        codebook_size: K of the units, 0 for none.
        tolerance_sec: of a boundary.
    """
    shift = 0.0
    if valid_truth:
        shift = best_shift(*_paired(valid_truth, valid_found or {}), tolerance_sec)
    score = boundary_score(*_paired(truth, found), tolerance_sec, shift)
    totals = TokenTotals(codebook_size)
    labels: list[list[str]] = []
    units: list[list[int]] = []
    for item in truth:
        tokens = found.get(item.recording.id)
        if tokens is None:
            totals.audio_sec += item.recording.duration_sec
            continue
        totals.add(tokens)
        if codebook_size:
            pairs = match_segments(item.segments, _times(tokens))
            labels.append([item.labels[i] for i in pairs[:, 0]])
            units.append(tokens.codes[pairs[:, 1], 0].tolist())
    agreement = label_agreement(labels, units) if any(labels) else None
    return SegmentationScore(
        precision=score.precision,
        recall=score.recall,
        f1=score.f1,
        over_segmentation=score.over_segmentation,
        r_value=score.r_value,
        shift_sec=shift,
        syllable_purity=agreement.label_purity if agreement else math.nan,
        cluster_purity=agreement.code_purity if agreement else math.nan,
        mutual_information_nats=agreement.mutual_information if agreement else math.nan,
        reference_per_sec=token_rate(sum(len(item.segments) for item in truth), totals.audio_sec),
        tokens_per_sec=totals.tokens_per_sec,
        bits_per_sec=totals.bits_per_sec,
    )


def _times(tokens: TokenSequence) -> np.ndarray:
    return np.stack([tokens.start_sec, tokens.end_sec], axis=1)


def _paired(
    truth: Sequence[SyllableRecording], found: Mapping[str, TokenSequence]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    nothing = np.zeros((0, 2))
    times = [found.get(item.recording.id) for item in truth]
    return (
        [item.segments for item in truth],
        [nothing if tokens is None else _times(tokens) for tokens in times],
    )


def segment_with(
    find: Callable[[np.ndarray], np.ndarray], truth: Sequence[SyllableRecording]
) -> dict[str, TokenSequence]:
    """Segments without units by id, from a function of the waveform (S,) to (m, 2) seconds."""
    found = {}
    for item in truth:
        recording = item.recording
        times = find(recording.read(0.0, None))
        codes = np.zeros((len(times), 0), np.int64)
        found[recording.id] = TokenSequence(
            recording.id, recording.duration_sec, codes, times[:, 0], times[:, 1]
        )
    return found
