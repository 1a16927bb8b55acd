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

# A frame takes about 0.4 MB while it is searched (N = 16, K = 256). Small chunks stay in the
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


@dataclass
class _Choices:
    """What is still possible in one frame's search, (F, M, ...) for M groups of L codebooks.

    Attributes:
        rows: (F, M, W) rows of the Gram table, the codes that occur in ``picks`` or are current.
        scores: (F, M, Q) squared error of an alternative, the other groups at their current codes;
            up to a constant per group.
        picks: (F, M, Q, L) the alternative's codes, positions in ``rows``.
        current: (F, M, L) the current codes, positions in ``rows``.
    """

    rows: Tensor
    scores: Tensor
    picks: Tensor
    current: Tensor


def _refine_once(
    tables: SearchTables, projections: Tensor, codes: Tensor, kept: tuple[int, ...]
) -> Tensor:
    """One pass over all groupings: (F, N*K) products of the frames, (F, N) codes to new codes."""
    offsets = torch.arange(tables.num_codebooks, device=codes.device) * tables.codebook_size
    choices = _shortlist(tables, projections, codes + offsets, kept[0])
    for keep in kept[1:]:
        choices = _merge_neighbours(tables.gram, choices, keep)
    return choices.rows[:, 0].gather(1, choices.picks[:, 0, 0]) - offsets


def _shortlist(tables: SearchTables, projections: Tensor, current: Tensor, keep: int) -> _Choices:
    """Best single replacements of each codebook's current code, rows ``current`` (F, N)."""
    num_codebooks, codebook_size = tables.num_codebooks, tables.codebook_size
    error_products = F.embedding_bag(current, tables.gram, mode="sum") - projections
    error_products = error_products.view(-1, num_codebooks, codebook_size)
    squares = tables.own_blocks.view(num_codebooks, -1)[:, :: codebook_size + 1]
    scores = 2 * (error_products - tables.own_blocks[current]) + squares
    scores, best = scores.topk(keep, dim=2, largest=False, sorted=False)
    best += torch.arange(num_codebooks, device=best.device)[:, None] * codebook_size
    places = torch.arange(keep + 1, device=best.device).expand(*current.shape, -1)
    return _Choices(
        rows=torch.cat([best, current[..., None]], dim=2),
        scores=scores,
        picks=places[..., :keep, None],
        current=places[..., keep:],
    )


def _merge_neighbours(gram: Tensor, choices: _Choices, keep: int) -> _Choices:
    """Decide neighbouring groups together and keep the best combinations of alternatives."""
    rows, scores, picks, current = choices.rows, choices.scores, choices.picks, choices.current
    width, alternatives, group = rows.shape[2], picks.shape[2], picks.shape[3]
    changes = _changes(choices)
    products = _look_up(gram, rows[:, 0::2], rows[:, 1::2])
    cross = changes[:, 0::2] @ products @ changes[:, 1::2].transpose(-1, -2)
    merged = scores[:, 0::2, :, None] + scores[:, 1::2, None, :] + 2 * cross
    scores, best = merged.flatten(2).topk(keep, dim=2, largest=False, sorted=False)
    index = torch.stack([best // alternatives, best % alternatives], dim=2).flatten(1, 2)
    picks = picks.gather(2, index[..., None].expand(-1, -1, -1, group))
    second = torch.tensor([0, width], device=rows.device)  # odd rows follow the even ones
    picks = picks.unflatten(1, (-1, 2)) + second[:, None, None]
    current = current.unflatten(1, (-1, 2)) + second[:, None]
    return _without_unused(
        _Choices(
            rows=rows.unflatten(1, (-1, 2)).flatten(2),
            scores=scores,
            picks=picks.transpose(2, 3).flatten(3),
            current=current.flatten(2),
        )
    )


def _changes(choices: _Choices) -> Tensor:
    """(F, M, Q, W): how often an alternative adds each row's center to the reconstruction.

    1 for its own codes, -1 for the current ones, 0 for those that it keeps.
    """
    picks = choices.picks
    changes = choices.scores.new_zeros(*picks.shape[:3], choices.rows.shape[2])
    current = choices.current[:, :, None].expand_as(picks)
    one = changes.new_ones(()).expand_as(picks)
    return changes.scatter_add_(3, picks, one).scatter_add_(3, current, -one)


def _look_up(gram: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Entries (..., W, W) of the Gram table for rows (..., W) and columns (..., W)."""
    # index_select from a flat view with a narrow index: 4 times as fast on a CPU as indexing.
    narrow = gram.numel() <= torch.iinfo(torch.int32).max
    dtype = torch.int32 if narrow else torch.int64
    index = rows.to(dtype)[..., None] * gram.shape[1] + columns.to(dtype)[..., None, :]
    return gram.view(-1).index_select(0, index.view(-1)).view(index.shape)


def _without_unused(choices: _Choices) -> _Choices:
    """Drop rows that no alternative picks any more; most of a group's shortlists go this way."""
    rows, picks, current = choices.rows, choices.picks, choices.current
    used = torch.zeros_like(rows, dtype=torch.bool)
    used.scatter_(2, picks.flatten(2), True).scatter_(2, current, True)
    places = used.cumsum(2) - 1
    width = int(places[..., -1].max()) + 1
    kept = rows.new_zeros(*rows.shape[:2], width + 1)  # one more for what is dropped
    kept.scatter_(2, places.masked_fill(~used, width), rows)
    return _Choices(
        rows=kept[..., :width],
        scores=choices.scores,
        picks=places.gather(2, picks.flatten(2)).view_as(picks),
        current=places.gather(2, current),
    )
