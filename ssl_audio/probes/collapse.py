"""Is a representation collapsing? Two numbers without labels, on pooled features of a fixed set.

Axes: N clips, D channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_audio.probes.features import PooledFeatures
from ssl_audio.probes.suite import Pooling

RANK_EPSILON = 1e-5
MAX_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Spread:
    """How far clips lie apart.

    Attributes:
        rank_me: directions that the features use, 1 .. min(N, D).
        mean_cosine: between clips; 1 when all point in one direction.
    """

    rank_me: float
    mean_cosine: float

    def alarm(self, *, min_rank: float = 2.0, max_cosine: float = 0.999) -> str | None:
        """One line if the features have collapsed (or are not finite), else None."""
        if math.isnan(self.rank_me) or math.isnan(self.mean_cosine):
            return "features hold NaN or infinite values, or come from fewer than two clips"
        if self.rank_me < min_rank:
            return f"features use {self.rank_me:.2f} directions (RankMe), fewer than {min_rank:g}"
        if self.mean_cosine > max_cosine:
            return f"mean cosine between clips is {self.mean_cosine:.4f}, above {max_cosine:g}"
        return None


def spread(features: Tensor) -> Spread:
    """Both numbers of (N, D) features."""
    return Spread(rank_me(features), mean_cosine(features))


def spread_of_clips(features: PooledFeatures) -> Spread:
    """Both numbers of the last layer's means over clips, or over shorter spans if there are none.

    At most ``MAX_ROWS`` rows, evenly spaced.
    """
    pooling: Pooling = "mean_std" if "mean_std" in features.tables else "mean"
    layers = features.tables.get(pooling)
    if not layers:
        return Spread(math.nan, math.nan)
    table = list(layers.values())[-1]
    spans = [(span, row) for span, row in features.rows.items() if span.pooling == pooling]
    rows = sorted(row for span, row in spans if span.end_sec is None) or sorted(
        row for _, row in spans
    )
    width = table.shape[1] // 2 if pooling == "mean_std" else table.shape[1]
    return spread(table[rows[:: math.ceil(len(rows) / MAX_ROWS)], :width])


def rank_me(features: Tensor) -> float:
    """Effective rank: exponential of the entropy of the normalised singular values.

    Garrido et al., "RankMe", arXiv:2210.02885, eq. 1. Compare values of the same set of clips only.

    Args:
        features: (N, D), not centred.

    Returns:
        NaN for no clips or values that are not finite.
    """
    values = features.detach().double()
    if not values.numel() or not bool(torch.isfinite(values).all()):
        return math.nan
    singular = torch.linalg.svdvals(values)
    shares = singular / singular.sum().clamp(min=torch.finfo(torch.float64).tiny) + RANK_EPSILON
    return math.exp(-float((shares * shares.log()).sum()))


def mean_cosine(features: Tensor) -> float:
    """Mean cosine similarity of all pairs of different clips of (N, D); clips of zeros count 0.

    Returns:
        NaN for fewer than two clips or values that are not finite.
    """
    values = features.detach().double()
    count = len(values)
    if count < 2 or not bool(torch.isfinite(values).all()):
        return math.nan
    unit = torch.nn.functional.normalize(values, dim=1, eps=torch.finfo(torch.float64).tiny)
    total = unit.sum(0).square().sum() - unit.square().sum()
    return float(total / (count * (count - 1)))
