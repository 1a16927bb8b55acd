"""How evenly codes use their codebooks."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_audio.batch import IGNORE_CODE


def codebook_usage(codes: Tensor, codebook_size: int) -> Tensor:
    """Counts (N, K) int64 of each entry in ``codes`` (..., N); ``IGNORE_CODE`` is not counted.

    Counts of several batches or ranks add up.
    """
    num_codebooks = codes.shape[-1]
    offsets = codebook_size * torch.arange(num_codebooks, device=codes.device)
    num_bins = num_codebooks * codebook_size
    slots = torch.where(codes == IGNORE_CODE, num_bins, codes + offsets)  # last slot: not counted
    counts = torch.zeros(num_bins + 1, dtype=torch.int64, device=codes.device)
    counts.index_add_(0, slots.flatten(), torch.ones_like(slots.flatten()))
    return counts[:-1].view(num_codebooks, codebook_size)


def codebook_perplexity(counts: Tensor) -> Tensor:
    """exp(entropy) per codebook (N,), 1 .. K, from counts (N, K); 1 where nothing was counted."""
    shares = counts.double() / counts.sum(-1, keepdim=True).clamp(min=1)
    return torch.special.entr(shares).sum(-1).exp()
