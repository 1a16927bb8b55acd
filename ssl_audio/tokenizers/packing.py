"""Codes of small codebooks packed into bytes, little-endian in base K."""

from __future__ import annotations

import torch
from torch import Tensor


def codes_per_byte(codebook_size: int, num_codebooks: int) -> int:
    """How many neighbouring codes share a byte: doubled while the pair still fits into 256 values.

    K = 16 gives 2, K = 4 gives 4, K = 2 gives 8, never more than ``num_codebooks``.

    Raises:
        ValueError: one code alone does not fit into a byte.
    """
    if codebook_size > 256:
        raise ValueError(
            f"codebook_size={codebook_size} does not fit into bytes; use as_bytes=False"
        )
    count, values = 1, codebook_size
    while values**2 <= 256 and num_codebooks % (2 * count) == 0:
        count, values = 2 * count, values**2
    return count


def pack_codes(codes: Tensor, codebook_size: int) -> Tensor:
    """Codes (..., N) in 0 .. K - 1 to uint8 (..., N / codes_per_byte); the first code is lowest."""
    count = codes_per_byte(codebook_size, codes.shape[-1])
    weights = codebook_size ** torch.arange(count, device=codes.device)
    return (codes.unflatten(-1, (-1, count)) * weights).sum(-1).to(torch.uint8)


def unpack_codes(packed: Tensor, codebook_size: int, num_codebooks: int) -> Tensor:
    """Inverse of :func:`pack_codes`: (..., N / codes_per_byte) to int64 (..., N)."""
    count = codes_per_byte(codebook_size, num_codebooks)
    weights = codebook_size ** torch.arange(count, device=packed.device)
    return (packed.long()[..., None] // weights % codebook_size).flatten(-2)
