"""Sylber's objective: each frame becomes its segment's mean (arXiv 2410.07168, section 3).

Axes: B clips, T frames, D channels, N segments.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_audio.tokenizers.syllables import EPS


@dataclass(frozen=True, slots=True)
class DistillationLoss:
    """``total`` () float32, summed over frames and channels; ``num_frames`` () int64, the divisor;
    ``clip_loss`` (B,) float32."""

    total: Tensor
    num_frames: Tensor
    clip_loss: Tensor


def distillation_loss(student: Tensor, target: Tensor, counted: Tensor) -> DistillationLoss:
    """Squared error of ``student`` (B, T, D) over the frames ``counted`` (B, T) bool.

    Args:
        target: (B, T, D), 0 outside of segments: silence is to have no norm.
    """
    error = (student.float() - target.detach()).square().sum(-1) * counted
    clip_loss = error.sum(1)
    return DistillationLoss(clip_loss.sum(), counted.sum(), clip_loss.detach())


def ids_from_labels(labels: Tensor) -> Tensor:
    """(B, T) int64: which segment a frame lies in, -1 for none.

    Args:
        labels: (B, T) int64; above 0 inside a segment, neighbours being told apart by another
            label; 0 and below outside.
    """
    inside = labels > 0
    starts = inside & (labels != F.pad(labels, (1, 0))[:, :-1])
    return torch.where(inside, starts.cumsum(1) - 1, -1)


def labels_from_segments(segments: Tensor, num_frames: int) -> Tensor:
    """(num_frames,) int64 labels 1, 2, 1 ... of the segments (N, 2) in order of time, 0 elsewhere;
    ``ids_from_labels`` is the inverse."""
    labels = segments.new_zeros(num_frames)
    for number, (start, end) in enumerate(segments.tolist()):
        labels[max(start, 0) : max(end, 0)] = 1 + number % 2
    return labels


def frame_norms(frames: Tensor) -> Tensor:
    """(B, T) float32 norms, as segmentation computes them."""
    return (frames.float().square().sum(-1) + EPS).sqrt()


def mean_pairwise_cosine(vectors: Tensor, counted: Tensor) -> Tensor:
    """Mean cosine similarity of all pairs of different vectors, a scalar; 0 for fewer than two.

    Near 1, everything points in one direction: the sign of a collapse.

    Args:
        vectors: (..., D).
        counted: (...) bool.
    """
    unit = F.normalize(vectors.float(), dim=-1) * counted[..., None]
    unit, count = unit.flatten(0, -2), counted.sum()
    pairs = (count * (count - 1)).clamp_min(1)
    return (unit.sum(0).square().sum() - unit.square().sum()) / pairs
