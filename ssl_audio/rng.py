"""Random generators that are functions of (seed, purpose, index) and of nothing else."""

from __future__ import annotations

import zlib

import numpy as np


def sample_generator(seed: int, purpose: str, index: int) -> np.random.Generator:
    """The generator of one data-plan sample for one purpose ("time_mask", "token_mixing" ...).

    Generators of different purposes or indices are independent; the same three arguments give the
    same numbers on any rank, worker or resume. ``seed`` and ``index`` are >= 0.
    """
    entropy = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), index])
    return np.random.Generator(np.random.Philox(entropy))
