"""Permutation-invariant losses of SUPERB's tasks with several speakers, to train with.

The values are those of ``metrics.diarization.permutation_invariant_loss`` and
``metrics.separation.mask_mse``. Axes: B clips, T frames, S speakers or sources, F bins.
"""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor
from torch.nn import functional

from ssl_audio.batch import valid_mask


def lowest_assignment(cost: Tensor) -> Tensor:
    """(B,) lowest mean over sources of (B, S, S) costs of output i as source j."""
    sources = range(cost.shape[1])
    choices = [cost[:, sources, choice].mean(1) for choice in permutations(sources)]
    return torch.stack(choices).amin(0)


def activity_loss(logits: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
    """Binary cross-entropy under the best order of speakers, per valid frame and speaker.

    Args:
        logits, labels: (B, T, S).
        lengths: (B,) valid frames.
    """
    pairs = functional.binary_cross_entropy_with_logits(
        logits[..., :, None].expand(-1, -1, -1, labels.shape[-1]),
        labels[..., None, :].expand(-1, -1, logits.shape[-1], -1).to(logits),
        reduction="none",
    )
    valid = valid_mask(lengths, logits.shape[1]).to(logits)
    cost = (pairs * valid[..., None, None]).sum(1)
    return lowest_assignment(cost).sum() / valid.sum()


def mask_loss(masks: Tensor, mixture: Tensor, sources: Tensor, lengths: Tensor) -> Tensor:
    """Squared error of masked mixtures to non-negative phase-sensitive magnitudes.

    Summed over bins, mean over frames, sources and clips, under the best order of sources (masks of
    Kolbaek et al., arXiv:1703.06284).

    Args:
        masks: (B, S, T, F).
        mixture: (B, T, F) complex spectra.
        sources: (B, S, T, F) complex spectra.
        lengths: (B,) valid frames.
    """
    cosine = torch.cos(mixture.angle()[:, None] - sources.angle()).clamp(min=0)
    wanted = sources.abs() * cosine
    error = (masks * mixture.abs()[:, None])[:, :, None] - wanted[:, None]
    valid = valid_mask(lengths, masks.shape[2]).to(masks)
    cost = torch.einsum("bijtf,bt->bij", error.square(), valid) / lengths.to(masks)[:, None, None]
    return lowest_assignment(cost).mean()
