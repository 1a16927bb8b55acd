"""The code search of ``mvq_search`` as compiled loops over frames (extra ``fast``).

The same scores from the same tables, but one frame at a time: its rows stay in the processor's
cache, and products are looked up only for codes that still occur in a surviving alternative.
Importing this file imports numba; ``mvq_search`` does so when the backend asks for it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from torch import Tensor

jit = numba.njit(cache=True, nogil=True, error_model="numpy", boundscheck=False)


def refine_codes(
    gram: Tensor, projections: Tensor, codes: Tensor, kept: tuple[int, ...], iters: int
) -> Tensor:
    """Improve codes ``iters`` times, on as many threads as torch uses.

    Args:
        gram: (N * K, N * K) on the CPU, and ``projections`` (F, N * K) of the same type.
        codes: (F, N) int64.
        kept: from ``mvq_search.survivors``.

    Returns:
        (F, N) int64.
    """
    result = codes.cpu().numpy().copy()
    table, products, keep = gram.numpy(), projections.numpy(), np.array(kept)
    parts = np.array_split(np.arange(len(result)), min(torch.get_num_threads(), len(result)))
    spans = [slice(part[0], part[-1] + 1) for part in parts]

    def run(span: slice) -> None:
        _refine_frames(table, products[span], result[span], keep, iters)

    if len(spans) == 1:
        run(spans[0])
    else:
        with ThreadPoolExecutor(len(spans)) as pool:
            list(pool.map(run, spans))
    return torch.from_numpy(result)


@jit
def _refine_frames(gram, projections, codes, kept, iters):  # type: ignore[no-untyped-def]
    """Updates ``codes`` (F, N) in place."""
    num_frames, num_codebooks = codes.shape
    size = gram.shape[0] // num_codebooks
    most = kept.max()
    squares = np.diag(gram).copy()
    errors = np.empty(gram.shape[0], gram.dtype)
    candidates = np.empty((num_codebooks, kept[0]), np.int64)  # rows of gram
    scores = np.empty((num_codebooks, most), gram.dtype)
    picks = np.empty((num_codebooks, most, num_codebooks), np.int64)
    old = np.empty(num_codebooks, np.int64)
    for frame in range(num_frames):
        for _ in range(iters):
            for n in range(num_codebooks):
                old[n] = n * size + codes[frame, n]
            _error_products(gram, projections[frame], old, errors)
            _shortlist(gram, squares, errors, old, candidates, scores, picks)
            group = 1
            for level in range(1, len(kept)):
                _merge(gram, old, candidates, scores, picks, group, kept[level - 1], kept[level])
                group *= 2
            changed = False
            for n in range(num_codebooks):
                code = candidates[n, picks[0, 0, n]]
                changed |= code != old[n]
                codes[frame, n] = code - n * size
            if not changed:
                break


@jit
def _error_products(gram, projection, old, errors):  # type: ignore[no-untyped-def]
    """Products of all centers with the present error of the reconstruction."""
    for j in range(len(errors)):
        errors[j] = -projection[j]
    for n in range(len(old)):
        row = gram[old[n]]
        for j in range(len(errors)):
            errors[j] += row[j]


@jit
def _shortlist(gram, squares, errors, old, candidates, scores, picks):  # type: ignore[no-untyped-def]
    """Best single replacements of each codebook, the others at their current codes."""
    num_codebooks, keep = candidates.shape
    size = gram.shape[0] // num_codebooks
    values = np.empty(size, gram.dtype)
    for n in range(num_codebooks):
        first = n * size
        own = gram[old[n]]
        for k in range(size):
            row = first + k
            values[k] = 2 * (errors[row] - own[row]) + squares[row]
        _smallest(values, first, scores[n, :keep], candidates[n], 0)
        for a in range(keep):
            picks[n, a, 0] = a


@jit
def _merge(gram, old, candidates, scores, picks, group, width, keep):  # type: ignore[no-untyped-def]
    """Decide neighbouring groups of ``group`` codebooks, ``width`` alternatives each, together."""
    num_codebooks = len(old)
    dtype = gram.dtype
    slots = np.empty((2, group, candidates.shape[1]), np.int64)
    rows = np.empty((2, group * candidates.shape[1]), np.int64)
    places = np.empty((2, group, width), np.int64)
    sums = np.empty(width, dtype)
    adjusted = np.empty((2, width), dtype)
    products = np.empty((rows.shape[1], rows.shape[1]), dtype)
    summed = np.empty(rows.shape[1], dtype)
    values = np.empty(keep, dtype)
    winners = np.empty(keep, np.int64)
    chosen = np.empty((keep, 2 * group), np.int64)
    for pair in range(num_codebooks // (2 * group)):
        counts = (
            _distinct(candidates, picks, 2 * pair, group, width, slots[0], rows[0], places[0]),
            _distinct(candidates, picks, 2 * pair + 1, group, width, slots[1], rows[1], places[1]),
        )
        for side in range(2):
            # The change of replacing o by a is C[a] - C[o]: products with the other side's
            # current codes belong to one alternative alone and go into its score.
            other = (2 * pair + 1 - side) * group
            for u in range(counts[side]):
                total = dtype.type(0)
                for n in range(other, other + group):
                    total += gram[old[n], rows[side, u]]
                summed[u] = total
            for a in range(width):
                total = dtype.type(0)
                for k in range(group):
                    total += summed[places[side, k, a]]
                adjusted[side, a] = scores[2 * pair + side, a] - 2 * total
        for u in range(counts[0]):
            row = gram[rows[0, u]]
            for v in range(counts[1]):
                products[u, v] = row[rows[1, v]]
        filled = 0
        for a in range(width):
            summed[: counts[1]] = 0
            for k in range(group):
                summed[: counts[1]] += products[places[0, k, a], : counts[1]]
            for b in range(width):
                sums[b] = adjusted[0, a] + adjusted[1, b]
            for k in range(group):
                for b in range(width):
                    sums[b] += 2 * summed[places[1, k, b]]
            filled = _smallest(sums, a * width, values, winners, filled)
        for a in range(keep):
            even, odd = winners[a] // width, winners[a] % width
            chosen[a, :group] = picks[2 * pair, even, :group]
            chosen[a, group:] = picks[2 * pair + 1, odd, :group]
        picks[pair, :keep, : 2 * group] = chosen
        scores[pair, :keep] = values


@jit
def _distinct(candidates, picks, choice, group, width, slots, rows, places):  # type: ignore[no-untyped-def]
    """List the codes that the alternatives of a choice use.

    Fills ``rows`` (rows of gram) and ``places`` (alternatives, group) that point into it.

    Returns:
        How many there are.
    """
    slots[:] = -1
    count = 0
    for a in range(width):
        for k in range(group):
            pick = picks[choice, a, k]
            if slots[k, pick] < 0:
                slots[k, pick] = count
                rows[count] = candidates[choice * group + k, pick]
                count += 1
            places[k, a] = slots[k, pick]
    return count


@jit
def _smallest(values, first, best, places, filled):  # type: ignore[no-untyped-def]
    """Sort ``values``, at places ``first`` and on, into the smallest seen so far.

    Args:
        best: (keep,) sorted values, of which ``filled`` are valid, and ``places`` (keep,).

    Returns:
        How many are valid now.
    """
    keep = len(best)
    for k in range(len(values)):
        value = values[k]
        if filled == keep and not value < best[keep - 1]:
            continue
        position = min(filled, keep - 1)
        while position > 0 and best[position - 1] > value:
            best[position] = best[position - 1]
            places[position] = places[position - 1]
            position -= 1
        best[position] = value
        places[position] = first + k
        filled = min(filled + 1, keep)
    return filled
