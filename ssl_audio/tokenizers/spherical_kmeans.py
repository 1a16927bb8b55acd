"""k-means on the unit sphere over the vectors of all ranks. Axes: F vectors, D channels, K means.

Initialisation of the BEATs codebook (microsoft/unilm ``beats/quantizer.py``). There every rank runs
it on its own vectors; here the ranks share their sums, so that all end with the same means.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, distributed
from torch.nn import functional

from ssl_audio.tokenizers.mvq_search import full_float32
from ssl_audio.tokenizers.nearest import nearest_codes

NUM_ITERS = 10


def spherical_kmeans(
    vectors: Tensor, means: Tensor, num_iters: int = NUM_ITERS
) -> tuple[Tensor, Tensor]:
    """Move each mean to the direction of its vectors' sum, ``num_iters`` times.

    A mean without vectors stays where it is.

    Args:
        vectors: (F, D) this rank's, of unit length; F may differ between ranks.
        means: (K, D) start, of unit length, the same on every rank.

    Returns:
        (K, D) means and (K,) float32 vectors of each in the last iteration, the same on every rank.
    """
    counts = means.new_zeros(len(means))
    for _ in range(num_iters):
        counts, sums = cluster_sums(vectors, nearest_codes(vectors, means), len(means))
        sum_over_ranks(counts)
        sum_over_ranks(sums)
        means = torch.where(counts[:, None] > 0, functional.normalize(sums, dim=1), means)
    return means, counts


def cluster_sums(vectors: Tensor, codes: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """Counts (K,) and sums (K, D), float32, of vectors (F, D) by their codes (F,)."""
    counts = torch.zeros(num_codes, device=vectors.device)
    sums = torch.zeros(num_codes, vectors.shape[1], device=vectors.device)
    with full_float32():
        counts.index_add_(0, codes, torch.ones_like(codes, dtype=torch.float32))
        sums.index_add_(0, codes, vectors.float())
    return counts, sums


def shared_sample(vectors: Tensor, count: int, generator: np.random.Generator) -> Tensor | None:
    """(count, D) of the vectors (F, D) of all ranks together, the same on every rank.

    Without replacement where there are enough; None where no rank has any.

    Args:
        generator: in the same state on every rank.
    """
    sizes = [len(vectors)]
    rank = 0
    if is_distributed():
        rank = distributed.get_rank()
        gathered = torch.zeros(
            distributed.get_world_size(), dtype=torch.int64, device=vectors.device
        )
        gathered[rank] = len(vectors)
        sum_over_ranks(gathered)
        sizes = gathered.tolist()
    total = sum(sizes)
    if total == 0:
        return None
    if total >= count:
        drawn = generator.permutation(total)[:count]
    else:
        drawn = generator.integers(total, size=count)
    index = torch.from_numpy(drawn - sum(sizes[:rank])).to(vectors.device)
    own = (index >= 0) & (index < len(vectors))
    sample = vectors.new_zeros(count, vectors.shape[1])
    sample[own] = vectors[index[own]]
    sum_over_ranks(sample)
    return sample


def sum_over_ranks(x: Tensor) -> None:
    """In place; nothing happens in a single process."""
    if is_distributed():
        distributed.all_reduce(x)


def is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
