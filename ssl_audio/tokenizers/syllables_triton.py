"""The segmentation of ``syllables`` on a GPU: one program scans one clip.

The two passes of the algorithm run as one: when a segment closes, the boundary to the segment
before it is settled. The template, the sums of both segments and the direction between their means
stay in registers. Importing this file imports triton; ``syllables_batch`` does so on CUDA devices.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssl_audio.tokenizers.syllables import EPS

NUM_WARPS = 4
_EPS = tl.constexpr(EPS)


def segment_on_device(
    features: Tensor,
    lengths: Tensor,
    norm_threshold: float | Tensor,
    merge_threshold: float | Tensor,
    reset_counter: bool,
    min_frames: int,
    min_similarity: float,
) -> Tensor:
    """(B, T, 2) int64 segments of (B, T, D); arguments as ``segment_batch``."""
    x = features.float().contiguous()
    batch, num_frames, dim = x.shape
    segments = torch.full((batch, num_frames, 2), -1, dtype=torch.int64, device=x.device)
    if segments.numel() == 0:
        return segments
    norms = torch.sqrt(x.square().sum(-1) + EPS)
    thresholds = torch.stack([_scalar(norm_threshold, x), _scalar(merge_threshold, x)])
    block = triton.next_power_of_2(dim)
    sizes = {"dim": dim, "block": block, "num_warps": NUM_WARPS}
    _scan[(batch,)](
        x, norms, lengths, thresholds, segments, num_frames, reset_counter=reset_counter, **sizes
    )
    if min_frames > 1:
        _join_short[(batch,)](x, segments, num_frames, min_frames, min_similarity, **sizes)
    return segments


def _scalar(value: float | Tensor, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to(like).reshape(())
    return torch.full((), value, dtype=like.dtype, device=like.device)


@triton.jit
def _scan(  # type: ignore[no-untyped-def]
    x_ptr,
    norms_ptr,
    lengths_ptr,
    thresholds_ptr,
    segments_ptr,
    num_frames,
    dim: tl.constexpr,
    block: tl.constexpr,
    reset_counter: tl.constexpr,
):
    item = tl.program_id(0).to(tl.int64)
    x_ptr += item * num_frames * dim
    norms_ptr += item * num_frames
    segments_ptr += item * num_frames * 2
    length = tl.load(lengths_ptr + item).to(tl.int32)
    norm_threshold = tl.load(thresholds_ptr)
    threshold = tl.load(thresholds_ptr + 1)
    template = tl.zeros([block], tl.float32)
    total = tl.zeros([block], tl.float32)  # of the open segment [start, t)
    left = tl.zeros([block], tl.float32)  # of the segment before it, [left_start, start)
    square = 0.0
    first = -1  # of the run; -1 in silence
    start = -1
    left_start = -1  # -1: the open segment is the run's first
    weight = 1
    count = 0
    for t in range(0, length + 1):
        norm = tl.load(norms_ptr + t, mask=t < length, other=-1.0)
        speech = norm >= norm_threshold
        x = _row(x_ptr, tl.minimum(t, num_frames - 1), dim, block)
        opens = speech
        if first >= 0:
            dot = tl.sum(template * x)
            seen = 1.0 * (weight + t - 1 - start)
            limit = threshold * tl.sqrt(tl.maximum(square, 0.0) + _EPS * seen * seen) * norm
            grows = speech & (dot >= limit)
            opens = speech & (dot < limit)
            if grows:
                template += x
                total += x
                square += 2 * dot + norm * norm - _EPS
            else:
                if left_start < 0:
                    left = total
                    left_start = start
                else:
                    left, left_start, count = _settle(
                        x_ptr,
                        norms_ptr,
                        segments_ptr,
                        left,
                        total,
                        left_start,
                        start,
                        t,
                        count,
                        threshold,
                        dim,
                        block,
                    )
                if not speech:
                    tl.store(segments_ptr + 2 * count, left_start)
                    tl.store(segments_ptr + 2 * count + 1, t)
                    count += 1
                    left_start = -1
                    first = -1
        elif speech:
            first = t
        if opens:
            start = t
            weight = 1
            if not reset_counter:
                weight = t - first + 1
            scale = 1.0 * weight
            total = x
            template = scale * x
            square = scale * scale * (norm * norm - _EPS)


@triton.jit
def _settle(  # type: ignore[no-untyped-def]
    x_ptr,
    norms_ptr,
    segments_ptr,
    left,
    right,
    start,
    boundary,
    end,
    count,
    threshold,
    dim: tl.constexpr,
    block: tl.constexpr,
):
    """Merge [start, boundary) and [boundary, end), given their sums, or move the boundary.

    Returns:
        Sum and start of the segment that now ends at ``end``, and the number of those written.
    """
    left_mean = left / (boundary - start)
    right_mean = right / (end - boundary)
    left_norm = tl.sqrt(tl.sum(left_mean * left_mean) + _EPS)
    right_norm = tl.sqrt(tl.sum(right_mean * right_mean) + _EPS)
    if tl.sum(left_mean * right_mean) >= threshold * left_norm * right_norm:
        right += left
    else:
        direction = left_mean / left_norm - right_mean / right_norm
        split = tl.maximum(start, boundary - tl.maximum(1, (boundary - start) // 2))
        high = tl.minimum(end, boundary + tl.maximum(1, (end - boundary) // 2))
        gain = 0.0
        best = 0.0
        for t in range(split, high - 1):
            gain += tl.sum(_row(x_ptr, t, dim, block) * direction) / tl.load(norms_ptr + t)
            if gain > best:
                best = gain
                split = t + 1
        if split > start:
            tl.store(segments_ptr + 2 * count, start)
            tl.store(segments_ptr + 2 * count + 1, split)
            count += 1
        start = split
        right = _sum(x_ptr, start, end, dim, block)
    return right, start, count


@triton.jit
def _join_short(  # type: ignore[no-untyped-def]
    x_ptr,
    segments_ptr,
    num_frames,
    min_frames,
    min_similarity,
    dim: tl.constexpr,
    block: tl.constexpr,
):
    item = tl.program_id(0).to(tl.int64)
    x_ptr += item * num_frames * dim
    segments_ptr += item * num_frames * 2
    kept = 0
    last_start = tl.full([], -1, tl.int64)  # of the last segment kept; it is written when it is
    last_end = tl.full([], -1, tl.int64)  # followed by another
    start = tl.load(segments_ptr)
    k = 0
    while start >= 0:  # stays what it is where the next segment begins here
        end = tl.load(segments_ptr + 2 * k + 1)
        k += 1
        inside = k < num_frames
        next_start = tl.load(segments_ptr + 2 * k, mask=inside, other=-1)
        left = float("-inf")
        right = float("-inf")
        if end - start < min_frames:
            if last_end == start:
                left = _similarity(x_ptr, last_start, start, end, dim, block)
            if next_start == end:
                next_end = tl.load(segments_ptr + 2 * k + 1)
                right = _similarity(x_ptr, start, end, next_end, dim, block)
        if tl.maximum(left, right) < min_similarity:
            tl.debug_barrier()  # all threads have read this row
            tl.store(segments_ptr + 2 * kept, start)
            tl.store(segments_ptr + 2 * kept + 1, end)
            kept += 1
            last_start, last_end = start, end
            start = next_start
        elif left >= right:
            tl.store(segments_ptr + 2 * kept - 1, end)
            last_end = end
            start = next_start
    for row in range(kept, k):
        tl.store(segments_ptr + 2 * row, -1)
        tl.store(segments_ptr + 2 * row + 1, -1)


@triton.jit
def _similarity(x_ptr, start, middle, end, dim: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """Cosine similarity of the means of [start, middle) and [middle, end)."""
    one = _sum(x_ptr, start, middle, dim, block) / (middle - start)
    other = _sum(x_ptr, middle, end, dim, block) / (end - middle)
    lengths = tl.sqrt(tl.sum(one * one) + _EPS) * tl.sqrt(tl.sum(other * other) + _EPS)
    return tl.sum(one * other) / lengths


@triton.jit
def _sum(x_ptr, start, end, dim: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    total = tl.zeros([block], tl.float32)
    for t in range(start, end):
        total += _row(x_ptr, t, dim, block)
    return total


@triton.jit
def _row(x_ptr, t, dim: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    channels = tl.arange(0, block)
    return tl.load(x_ptr + t * dim + channels, mask=channels < dim, other=0.0)
