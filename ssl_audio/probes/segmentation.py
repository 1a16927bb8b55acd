"""How well syllables are found: the scores of a segmentation against the known syllables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ssl_audio.probes.metrics import bootstrap_interval
from ssl_audio.probes.metrics.boundaries import (
    TOLERANCE_SEC,
    BoundaryScore,
    best_shift,
    boundary_score,
    match_segments,
)
from ssl_audio.probes.metrics.token_quality import label_agreement, token_rate
from ssl_audio.probes.syllable_corpora import SyllableRecording
from ssl_audio.probes.token_stream import TokenSequence, TokenTotals

NUM_DRAWS, LEVEL = 1000, 0.95  # of bootstrap intervals


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
        coding_efficiency: bits that the units tell about the syllables they match, for each bit
            spent on units; at most 1, NaN without units.
        intervals: 95 % bootstrap intervals over recordings of some of these, by name.
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
    coding_efficiency: float
    intervals: Mapping[str, tuple[float, float]]

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


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
    each = [
        boundary_score([true], [guess], tolerance_sec, shift)
        for true, guess in zip(*_paired(truth, found), strict=True)
    ]
    counts = np.array([(s.num_hits, s.num_reference, s.num_predicted) for s in each])
    score = BoundaryScore(*map(int, counts.reshape(-1, 3).sum(0)))
    totals = TokenTotals(codebook_size)
    for item in truth:
        tokens = found.get(item.recording.id)
        if tokens is None:
            totals.audio_sec += item.recording.duration_sec
        else:
            totals.add(tokens)
    purities, intervals = _purities(truth, found, codebook_size, totals)
    return SegmentationScore(
        precision=score.precision,
        recall=score.recall,
        f1=score.f1,
        over_segmentation=score.over_segmentation,
        r_value=score.r_value,
        shift_sec=shift,
        **purities,
        reference_per_sec=token_rate(sum(len(item.segments) for item in truth), totals.audio_sec),
        tokens_per_sec=totals.tokens_per_sec,
        bits_per_sec=totals.bits_per_sec,
        intervals={**_boundary_intervals(counts), **intervals},
    )


def _boundary_intervals(counts: np.ndarray) -> dict[str, tuple[float, float]]:
    """Of F1 and R-value, from hits, reference and predicted boundaries (U, 3) of recordings."""
    share = np.full(len(counts), 1 / len(counts))
    draws = np.random.default_rng(0).multinomial(len(counts), share, size=NUM_DRAWS) @ counts
    scores = [BoundaryScore(*row) for row in draws.tolist()]
    tail = (1 - LEVEL) / 2
    intervals = {}
    for name in ("f1", "r_value"):
        low, high = np.quantile([getattr(score, name) for score in scores], [tail, 1 - tail])
        intervals[name] = float(low), float(high)
    return intervals


def _purities(
    truth: Sequence[SyllableRecording],
    found: Mapping[str, TokenSequence],
    codebook_size: int,
    totals: TokenTotals,
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Agreement of units and labels over matched segments, and intervals of the purities."""
    names = ("syllable_purity", "cluster_purity", "mutual_information_nats", "coding_efficiency")
    labels: list[str] = []
    units: list[int] = []
    clips: list[str] = []
    for item in truth if codebook_size else ():
        if (tokens := found.get(item.recording.id)) is not None:
            pairs = match_segments(item.segments, _times(tokens))
            labels += [item.labels[i] for i in pairs[:, 0]]
            units += tokens.codes[pairs[:, 1], 0].tolist()
            clips += [item.recording.id] * len(pairs)
    if not clips:
        return dict.fromkeys(names, math.nan), {}
    agreement = label_agreement([labels], [units])
    told_bits = len(clips) * agreement.mutual_information / math.log(2)
    spent_bits = totals.num_tokens * math.log2(codebook_size)
    values = (
        agreement.label_purity,
        agreement.code_purity,
        agreement.mutual_information,
        told_bits / spent_bits if spent_bits else math.nan,
    )
    return dict(zip(names, values, strict=True)), {
        "syllable_purity": bootstrap_interval(_usual(labels, units), clips, seed=0),
        "cluster_purity": bootstrap_interval(_usual(units, labels), clips, seed=0),
    }


def _usual(values: Sequence[object], given: Sequence[object]) -> np.ndarray:
    """(N,) bool: whether each value is the most frequent one beside its ``given``."""
    pairs = list(zip(given, values, strict=True))
    best: dict[object, object] = {}
    for (condition, value), _ in Counter(pairs).most_common():
        best.setdefault(condition, value)
    return np.array([best[condition] == value for condition, value in pairs])


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
