"""X-ARES: masked means, segment F1, retrieval, weighted averages, and its k-NN as it was published.

Definitions: xares 0.1.3 ``trainer.py`` and ``metrics.py``, Zhang et al., arXiv:2505.16369.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from ssl_audio.probes.metrics.knn import unit_rows, weighted_votes

RETRIEVAL_DEPTHS = (1, 5, 10)


def knn_as_published(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    *,
    num_classes: int,
    k: int = 10,
    temperature: float = 0.07,
) -> np.ndarray:
    """``knn_class_scores`` with the train features normalised over clips instead of channels.

    A defect of the original, kept to compare with its published scores.
    """
    bank = unit_rows(np.asarray(train).T).T
    return weighted_votes(
        unit_rows(test) @ bank.T,
        train_labels,
        num_classes=num_classes,
        k=k,
        temperature=temperature,
    )


def masked_mean(frames: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """(B, D) means of (B, D, T) frames over the valid ones; NaN for a clip without any."""
    valid = np.arange(frames.shape[2]) < np.asarray(lengths)[:, None]
    counts = valid.sum(1)[:, None]
    total = np.where(valid[:, None], frames, 0).sum(2)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)


def segment_f1(
    predicted: np.ndarray,
    target: np.ndarray,
    *,
    hop_ms: float,
    segment_sec: float,
    average: Literal["micro", "macro"],
) -> float:
    """F1 of label activity in segments, a label being active if it is in any of its frames.

    Args:
        predicted, target: (B, T, L), 0 or 1; the incomplete segment at the end is dropped.
        hop_ms: between frames.
        segment_sec: rounded up to whole frames.
        average: over all decisions, or over labels (0 for a label that is nowhere).

    Returns:
        NaN if the clips are shorter than a segment or, for ``micro``, hold no activity.
    """
    size = math.ceil(segment_sec * 1000 / hop_ms)
    found, wanted = (_segments(np.asarray(x) > 0, size) for x in (predicted, target))
    if average == "micro":
        found, wanted = found.reshape(-1, 1), wanted.reshape(-1, 1)
    if not len(found):
        return math.nan
    hits = (found & wanted).sum(0)
    total = found.sum(0) + wanted.sum(0)
    if average == "micro" and not total[0]:
        return math.nan
    return float(np.mean(2 * hits / np.maximum(total, 1)))


def retrieval_scores(
    audio: np.ndarray, text: np.ndarray, *, captions_per_clip: int
) -> dict[str, dict[str, float]]:
    """Audio-to-text (``a2t``) and text-to-audio (``t2a``) retrieval by cosine similarity.

    Args:
        audio: (clips * captions, D), rows of a clip consecutive; the first of them is used.
        text: (clips * captions, D), captions in the same order.
        captions_per_clip: rows of a clip.

    Returns:
        For each direction ``r1``, ``r5``, ``r10`` and ``mAP10`` in percent, ``meanr`` and ``medr``
        as ranks from 1. ``a2t`` ranks the best own caption.

    Raises:
        ValueError: rows that do not make up whole clips, or no rows.
    """
    if len(audio) != len(text) or not len(text) or len(text) % captions_per_clip:
        raise ValueError(
            f"retrieval needs {captions_per_clip} rows for each clip, got {len(audio)} of audio "
            f"and {len(text)} of text"
        )
    similarity = unit_rows(audio[::captions_per_clip]) @ unit_rows(text).T  # (clips, captions)
    clip_of = np.arange(len(text)) // captions_per_clip
    own = clip_of == np.arange(len(similarity))[:, None]
    by_clip = np.argsort(-similarity, axis=1, kind="stable")
    hits = np.take_along_axis(own, by_clip, axis=1)
    by_text = np.argsort(-similarity.T, axis=1, kind="stable")
    ranks = (by_text == clip_of[:, None]).argmax(1) + 1
    return {
        "a2t": _rank_scores(hits.argmax(1) + 1, _average_precision_at_10(hits)),
        "t2a": _rank_scores(ranks, np.where(ranks <= 10, 1 / ranks, 0)),
    }


def weighted_average(scores: np.ndarray, weights: np.ndarray) -> float:
    """Sum of score times weight over the sum of weights; NaN without weight."""
    total = float(np.sum(weights))
    return float(np.sum(np.multiply(scores, weights))) / total if total else math.nan


def _segments(active: np.ndarray, size: int) -> np.ndarray:
    """(segments of all clips, L) from (B, T, L)."""
    num_clips, num_frames, num_labels = active.shape
    whole = num_frames // size
    pooled = active[:, : whole * size].reshape(num_clips, whole, size, num_labels).any(2)
    return pooled.reshape(-1, num_labels)


def _rank_scores(ranks: np.ndarray, precision: np.ndarray) -> dict[str, float]:
    recalls = {f"r{depth}": 100 * float(np.mean(ranks <= depth)) for depth in RETRIEVAL_DEPTHS}
    return {
        **recalls,
        "meanr": float(ranks.mean()),
        "medr": float(np.floor(np.median(ranks))),
        "mAP10": 100 * float(precision.mean()),
    }


def _average_precision_at_10(hits: np.ndarray) -> np.ndarray:
    """(clips,) over the own captions that rank at most 10, all own captions in the denominator."""
    top = hits[:, :10]
    precision = np.cumsum(top, axis=1) / np.arange(1, top.shape[1] + 1)
    return (precision * top).sum(1) / hits.sum(1)
