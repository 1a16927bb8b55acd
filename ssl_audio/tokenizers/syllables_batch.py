"""Syllabic segments of a batch, for training: where they lie and what their frames average to.

Axes: B clips, T frames, D channels, N segments. Segments of a batch are (B, N, 2) int64
[start, end) in order of time, -1 after a clip's last.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from ssl_audio.batch import full_lengths
from ssl_audio.tokenizers.syllables import check_thresholds, or_below, segment_syllables


@torch.no_grad()
def segment_batch(
    features: Tensor,
    lengths: Tensor | None,
    norm_threshold: float | Tensor,
    merge_threshold: float | Tensor,
    *,
    reset_counter: bool = False,
    min_frames: int = 0,
    min_similarity: float = 0.0,
) -> Tensor:
    """The segments that :func:`segment_syllables` finds in each clip alone.

    On a CUDA device one Triton program scans each clip and nothing is copied to the host, if
    thresholds that are computed are given as tensors there. Elsewhere the clips are scanned on the
    CPU, on as many threads as torch uses where numba is installed (extra ``fast``).

    Args:
        features: (B, T, D); and ``lengths`` (B,) valid frames, all of T when None.
        norm_threshold, merge_threshold: numbers or scalar tensors; the others, too, are those of
            :func:`segment_syllables`.

    Returns:
        (B, T, 2) int64, -1 after a clip's last segment.

    Raises:
        ValueError: features that are not (B, T, D), or a number outside its range.
    """
    if features.ndim != 3:
        raise ValueError(f"features of shape {tuple(features.shape)}; a batch wants (B, T, D)")
    check_thresholds(
        0 if isinstance(norm_threshold, Tensor) else norm_threshold,
        0 if isinstance(merge_threshold, Tensor) else merge_threshold,
        min_frames,
        min_similarity,
    )
    if lengths is None:
        lengths = full_lengths(features)
    if features.is_cuda and find_spec("triton"):
        from ssl_audio.tokenizers.syllables_triton import segment_on_device

        return segment_on_device(
            features.detach(),
            lengths,
            norm_threshold,
            merge_threshold if isinstance(merge_threshold, Tensor) else or_below(merge_threshold),
            reset_counter,
            min_frames,
            or_below(min_similarity),
        )
    found = _segment_on_host(
        np.ascontiguousarray(features.detach().float().cpu().numpy()),
        lengths.cpu().numpy(),
        float(norm_threshold),
        float(merge_threshold),
        reset_counter,
        min_frames,
        min_similarity,
    )
    return torch.from_numpy(found).to(features.device)


def segment_ids(segments: Tensor, num_frames: int) -> Tensor:
    """(B, num_frames) int64: which segment of (B, N, 2) a frame lies in, -1 for none."""
    batch, most, _ = segments.shape
    if most == 0:
        return segments.new_full((batch, num_frames), -1)
    starts, ends = segments.unbind(-1)
    marks = segments.new_zeros(batch, num_frames + 1)
    marks.scatter_add_(1, torch.where(starts < 0, num_frames, starts), torch.ones_like(starts))
    latest = marks[:, :num_frames].cumsum(1) - 1
    frames = torch.arange(num_frames, device=segments.device)
    inside = (latest >= 0) & (frames < ends.gather(1, latest.clamp_min(0)))
    return torch.where(inside, latest, -1)


def pooled_segments(features: Tensor, ids: Tensor, num_segments: int) -> Tensor:
    """Mean over the frames of each segment, float32; 0 for a segment without frames.

    Args:
        features: (B, T, D).
        ids: (B, T) int64 from :func:`segment_ids`, below ``num_segments``.

    Returns:
        (B, num_segments, D).
    """
    batch, _, dim = features.shape
    x = features.float().flatten(0, 1)
    rows = torch.arange(batch, device=ids.device)[:, None] * (num_segments + 1)
    slots = (rows + torch.where(ids < 0, num_segments, ids)).flatten()  # a slot more for silence
    sums = x.new_zeros(batch * (num_segments + 1), dim).index_add_(0, slots, x)
    counts = x.new_zeros(len(sums)).index_add_(0, slots, torch.ones_like(slots, dtype=x.dtype))
    means = sums / counts.clamp_min(1)[:, None]
    return means.view(batch, num_segments + 1, dim)[:, :num_segments]


def average_segments(features: Tensor, ids: Tensor) -> Tensor:
    """Each frame's segment mean, float32 and exactly 0 outside of segments: Sylber's target.

    Args:
        features: (B, T, D).
        ids: (B, T) int64 from :func:`segment_ids`.

    Returns:
        (B, T, D).
    """
    means = pooled_segments(features, ids, features.shape[1])
    index = ids.clamp_min(0)[..., None].expand(-1, -1, features.shape[2])
    return means.gather(1, index) * (ids >= 0)[..., None]


def _segment_on_host(
    x: np.ndarray,
    lengths: np.ndarray,
    norm_threshold: float,
    merge_threshold: float,
    reset_counter: bool,
    min_frames: int,
    min_similarity: float,
) -> np.ndarray:
    if find_spec("numba"):
        from ssl_audio.tokenizers import syllables_numba

        return syllables_numba.segment_batch(
            x,
            lengths,
            norm_threshold,
            or_below(merge_threshold),
            reset_counter,
            min_frames,
            or_below(min_similarity),
            min(torch.get_num_threads(), max(1, len(x))),
        )
    segments = np.full((*x.shape[:2], 2), -1, np.int64)
    for clip, length, found in zip(x, lengths, segments, strict=True):
        rows = segment_syllables(
            clip[:length],
            norm_threshold,
            merge_threshold,
            reset_counter=reset_counter,
            min_frames=min_frames,
            min_similarity=min_similarity,
        )
        found[: len(rows)] = rows
    return segments
