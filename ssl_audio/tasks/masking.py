"""Span masks over the input features (SPEAR, arXiv 2510.25955; wav2vec 2.0 span sampling).

Masks are drawn on the CPU with one generator per clip, seeded by (seed, purpose, sample_index), so
a clip's mask depends on its place in the data plan and on nothing else in the batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssl_audio.rng import sample_generator


def span_mask(
    lengths: Tensor,
    prob: float,
    span: int,
    sample_index: Tensor,
    seed: int,
    *,
    purpose: str,
    min_masks: int = 0,
    max_length: int | None = None,
) -> Tensor:
    """(B, T) bool, True where a position is masked; spans of one clip may overlap.

    Args:
        lengths: (B,) int64, maskable positions of each clip (valid frames, or channels).
        prob: expected sum of span lengths over ``lengths``; overlaps make the covered part less.
        span: positions per span.
        sample_index: (B,) int64, from the batch.
        seed: the run's seed.
        purpose: name of the random stream; time and channel masks need different ones.
        min_masks: spans per clip at the least, as far as the clip has room for them.
        max_length: T, the longest clip when None.

    Raises:
        ValueError: ``prob`` outside [0, 1], ``span`` < 1 or ``min_masks`` < 0.
    """
    if not 0.0 <= prob <= 1.0:
        raise ValueError(f"{purpose}: the masking probability is {prob}, choose one in [0, 1]")
    if span < 1 or min_masks < 0:
        raise ValueError(
            f"{purpose}: span {span} and min_masks {min_masks}, choose span >= 1, min_masks >= 0"
        )
    sizes, indices = lengths.tolist(), sample_index.tolist()
    mask = np.zeros((len(sizes), max(sizes) if max_length is None else max_length), dtype=bool)
    for row, size, index in zip(mask, sizes, indices, strict=True):
        rng = sample_generator(seed, purpose, index)
        starts = span_starts(rng, size, prob, span, min_masks)
        row[:size][covered(starts, span, size)] = True
    return torch.from_numpy(mask).to(lengths.device)


def span_starts(
    rng: np.random.Generator, size: int, prob: float, span: int, min_masks: int = 0
) -> np.ndarray:
    """First positions of the spans of one clip of ``size`` positions; see ``span_mask``."""
    num_spans = int(prob * size / span + rng.random())
    num_spans = min(max(num_spans, min_masks), size // span)
    # A start range with fewer places than spans is widened; such spans are cut at the clip's end.
    num_places = size - span if size - span > num_spans else num_spans + 1
    return rng.choice(num_places, num_spans, replace=False)


def covered(starts: np.ndarray, span: int, size: int) -> np.ndarray:
    """The positions below ``size`` that lie in spans, repeated where spans overlap."""
    positions = (starts[:, None] + np.arange(span)).ravel()
    return positions[positions < size]


def mask_features(
    features: Tensor, time_mask: Tensor, channel_mask: Tensor, mask_embedding: Tensor
) -> Tensor:
    """Masked copy of the log-mel ``features`` (B, T, M), as it enters the subsampling.

    Channels of ``channel_mask`` (B, M) become 0.0 for the whole clip (loud in log-mel, as in the
    original); then frames of ``time_mask`` (B, T) become ``mask_embedding`` (M,).
    """
    features = features.masked_fill(channel_mask[:, None, :], 0.0)
    return torch.where(time_mask[..., None], mask_embedding.to(features.dtype), features)


def output_mask(time_mask: Tensor, subsampling: int, num_frames: int) -> Tensor:
    """(B, num_frames) bool: output frames of which at least half of the input frames are masked.

    ``time_mask`` (B, T) runs at the features' rate, ``subsampling`` times the output's. Output
    frame t belongs to input frames t * subsampling ... (t + 1) * subsampling - 1, which is the
    audio its target was computed from; frames beyond the input are not masked.
    """
    pooled_frames = min(num_frames, time_mask.shape[1] // subsampling)
    windows = time_mask[:, : pooled_frames * subsampling].unflatten(1, (pooled_frames, subsampling))
    pooled = windows.sum(-1) * 2 >= subsampling
    return torch.nn.functional.pad(pooled, (0, num_frames - pooled_frames))
