"""The code search of the multi-codebook quantizer, scored by table look-up.

With G = C C^T over all centers and P = x C^T, both computed once, the squared error of every
combination of codes that the search considers is a sum of entries of G and P. No vector of the
feature dimension is touched after that, so memory per frame does not grow with the dimension and
every iteration costs a few percent of the original, which builds the vectors.

Axes: F frames, N codebooks, K codes a codebook, D channels, M choices (groups of L neighbouring
codebooks that are decided together), Q alternatives of a choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Backend = Literal["torch", "numba", "auto"]
BACKENDS = ("torch", "numba", "auto")

# A frame needs about 0.7 MB while it is searched (N = 16, K = 256). Small chunks stay in the
# processor's cache; an accelerator wants many frames at once.
CPU_CHUNK_FRAMES = 64
DEVICE_CHUNK_FRAMES = 2048


@dataclass(frozen=True)
class SearchTables:
    """What the search needs to know about the codebooks.

    Attributes:
        centers: (N * K, D), each codebook shifted to mean 0.
        shift: (D,), sum of the means; subtracted from the frames too. Differences between
            reconstructions do not change, but products are no longer dominated by the mean.
        gram: (N * K, N * K), products of all pairs of ``centers``.
        own_blocks: (N * K, K), products of each center with its own codebook.
        num_codebooks: N.
    """

    centers: Tensor
    shift: Tensor
    gram: Tensor
    own_blocks: Tensor
    num_codebooks: int

    @property
    def codebook_size(self) -> int:
        return self.centers.shape[0] // self.num_codebooks

    @classmethod
    def build(cls, centers: Tensor) -> SearchTables:
        """From scaled centers (N, K, D)."""
        num_codebooks, codebook_size, dim = centers.shape
        means = centers.mean(1, keepdim=True)
        centered = (centers - means).reshape(-1, dim)
        gram = _symmetric_product(centered, codebook_size)
        blocks = gram.view(num_codebooks, codebook_size, num_codebooks, codebook_size)
        own_blocks = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1).reshape(-1, codebook_size)
        return cls(centered, means.sum((0, 1)), gram, own_blocks.contiguous(), num_codebooks)


def _symmetric_product(rows: Tensor, block: int) -> Tensor:
    """``rows @ rows.T``, computing only one of each pair of mirrored blocks."""
    size = rows.shape[0]
    product = rows.new_empty(size, size)
    for start in range(0, size, block):
        stop = start + block
        panel = rows[start:stop] @ rows[start:].T
        product[start:stop, start:] = panel
        product[stop:, start:stop] = panel[:, block:].T
    return product


@contextmanager
def full_float32() -> Iterator[None]:
    """No autocast and no reduced-precision products: codes must not depend on the precision."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def survivors(num_codebooks: int, codebook_size: int) -> tuple[int, ...]:
    """Alternatives kept per choice: before the first merge, then after each merge; the last is 1.

    Guo et al., arXiv 2211.00508, as in ``multi_quantization``: a choice over L codebooks is cut to
    min(128, base * 2 ** floor(log4 L)) alternatives, base 8 for K <= 16 and else 16, where it has
    more.
    """
    base = 8 if codebook_size <= 16 else 16
    kept = []
    alternatives, group = codebook_size, 1
    while True:
        cutoff = min(128, base << ((group.bit_length() - 1) // 2))
        alternatives = 1 if group == num_codebooks else min(alternatives, cutoff)
        kept.append(alternatives)
        if group == num_codebooks:
            return tuple(kept)
        alternatives, group = alternatives**2, 2 * group


def refine(x: Tensor, codes: Tensor, tables: SearchTables, iters: int, backend: Backend) -> Tensor:
    """Improve the codes of each frame ``iters`` times.

    Args:
        x: (F, D), of the tables' dtype. The caller bounds F, see :func:`chunk_frames`.
        codes: (F, N) int64, where to start.
        backend: ``numba`` needs the extra ``fast`` and a CPU tensor; ``auto`` takes it if possible.

    Returns:
        (F, N) int64. A frame's result does not depend on the other frames.
    """
    if iters == 0 or x.shape[0] == 0:
        return codes
    kept = survivors(tables.num_codebooks, tables.codebook_size)
    projections = (x - tables.shift) @ tables.centers.T
    scan = _scan_backend(backend, x)
    if scan is not None:
        return scan(tables.gram, projections, codes, kept, iters)
    codes = codes.clone()
    active = torch.arange(x.shape[0], device=x.device)
    for _ in range(iters):
        before = codes[active]
        after = _refine_once(tables, projections[active], before, kept)
        codes[active] = after
        # The map is deterministic: a frame that it leaves alone once stays as it is.
        active = active[(after != before).any(1)]
        if active.numel() == 0:
            break
    return codes


def chunk_frames(x: Tensor) -> int:
    """How many frames to search at once on the device of ``x``."""
    return CPU_CHUNK_FRAMES if x.device.type == "cpu" else DEVICE_CHUNK_FRAMES


def _scan_backend(backend: Backend, x: Tensor) -> Callable[..., Tensor] | None:
    """The compiled search, or None for the one in torch."""
    if backend == "torch" or (backend == "auto" and x.device.type != "cpu"):
        return None
    try:
        from ssl_audio.tokenizers.mvq_numba import refine_codes
    except ImportError as error:
        if backend == "auto":
            return None
        raise ValueError(
            f"backend='numba': {error}; pip install ssl-audio[fast] or use backend='torch'"
        ) from error
    if x.device.type != "cpu":
        raise ValueError(f"backend='numba' runs on the CPU, frames are on {x.device}; use 'torch'")
    return refine_codes


def _refine_once(
    tables: SearchTables, projections: Tensor, codes: Tensor, kept: tuple[int, ...]
) -> Tensor:
    """One pass over all groupings: (F, N*K) products of the frames, (F, N) codes to new codes."""
    num_codebooks, codebook_size = tables.num_codebooks, tables.codebook_size
    offsets = torch.arange(num_codebooks, device=codes.device) * codebook_size
    old = codes + offsets
    # Change of the squared error if one code alone is replaced, up to a constant per codebook.
    error_products = F.embedding_bag(old, tables.gram, mode="sum") - projections
    squares = tables.own_blocks.view(num_codebooks, -1)[:, :: codebook_size + 1]
    scores = error_products.view(-1, num_codebooks, codebook_size) - tables.own_blocks[old]
    scores, local = (2 * scores + squares).topk(kept[0], dim=2, largest=False, sorted=False)
    candidates = torch.cat([local + offsets[:, None], old[..., None]], dim=2)  # (F, N, q + 1)
    # picks[f, m, a, l]: position among its codebook's candidates of code l of alternative a.
    picks = torch.arange(kept[0], device=codes.device).expand_as(local)[..., None]
    for keep in kept[1:]:
        products = _change_products(tables.gram, candidates, picks.shape[-1])
        scores, picks = _merge_neighbours(scores, picks, products, keep)
    return candidates.gather(2, picks.view(-1, num_codebooks, 1)).squeeze(2) - offsets


def _change_products(gram: Tensor, candidates: Tensor, group: int) -> Tensor:
    """Products of the changes that the candidates of neighbouring groups would make.

    Args:
        candidates: (F, N, q + 1) rows of ``gram``; the last of each codebook is the current code.
        group: L, codebooks a group.

    Returns:
        (F, N / 2L, L * (q + 1), L * (q + 1)): even group by odd group. The change of replacing
        code o by a is C[a] - C[o], so the current code's own rows and columns are 0.
    """
    width = candidates.shape[-1]
    pairs = candidates.unflatten(1, (-1, 2, group)).flatten(3)  # (F, N / 2L, 2, L * width)
    even, odd = pairs[:, :, 0], pairs[:, :, 1]
    index = even[..., None] * gram.shape[1] + odd[..., None, :]
    table = gram.view(-1)[index].view(*index.shape[:2], group, width, group, width)
    table = table - table[..., -1:]
    table = table - table[:, :, :, -1:]
    return table.view(index.shape)


def _merge_neighbours(
    scores: Tensor, picks: Tensor, products: Tensor, keep: int
) -> tuple[Tensor, Tensor]:
    """Decide neighbouring choices together and keep the best combinations.

    Args:
        scores: (F, M, Q) and ``picks`` (F, M, Q, L): the alternatives of each choice.
        products: (F, M / 2, L * width, L * width) from :func:`_change_products`.

    Returns:
        Scores (F, M / 2, keep) and picks (F, M / 2, keep, 2L).
    """
    even, odd = picks[:, 0::2], picks[:, 1::2]
    cross = _selection(even, products) @ products @ _selection(odd, products).transpose(-1, -2)
    merged = scores[:, 0::2, :, None] + scores[:, 1::2, None, :] + 2 * cross
    scores, best = merged.flatten(2).topk(keep, dim=2, largest=False, sorted=False)
    alternatives = even.shape[2]
    chosen = [
        side.gather(2, index[..., None].expand(-1, -1, -1, side.shape[-1]))
        for side, index in ((even, best // alternatives), (odd, best % alternatives))
    ]
    return scores, torch.cat(chosen, dim=3)


def _selection(picks: Tensor, products: Tensor) -> Tensor:
    """(F, M, Q, L) to 0/1 matrices (F, M, Q, L * width) that add up the picked rows."""
    group = picks.shape[-1]
    rows = picks + torch.arange(group, device=picks.device) * (products.shape[-1] // group)
    return products.new_zeros(*picks.shape[:-1], products.shape[-1]).scatter_(-1, rows, 1.0)
