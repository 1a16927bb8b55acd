"""Nearest entry of a codebook. Axes: F vectors, D channels, K codes."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_audio.tokenizers.mvq_search import full_float32

# Scores held at once: few enough for a core's cache, enough to fill an accelerator.
CPU_CHUNK_SCORES = 2**20
DEVICE_CHUNK_SCORES = 2**27


@torch.no_grad()
def nearest_codes(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the codebook row at the smallest Euclidean distance, the first of equals.

    In float32 whatever the precision around it; distances are never held for more than a chunk.

    Args:
        vectors: (..., D).
        codebook: (K, D) float32.

    Returns:
        (...) int64.
    """
    rows = vectors.reshape(-1, vectors.shape[-1]).float()
    on_cpu = rows.device.type == "cpu"
    budget = CPU_CHUNK_SCORES if on_cpu else DEVICE_CHUNK_SCORES
    with full_float32():
        # |x - v|^2 = |x|^2 - 2 (x.v - |v|^2 / 2), and |x|^2 does not choose.
        penalty = -0.5 * codebook.square().sum(1)
        chunks = rows.split(max(1, budget // len(codebook)))
        codes = [torch.addmm(penalty, chunk, codebook.T).argmax(1) for chunk in chunks]
    return torch.cat(codes).view(vectors.shape[:-1])
