"""Mixup of labelled waveforms (arXiv 1710.09412), as AudioSet models are fine-tuned."""

from __future__ import annotations

import torch
from torch import Tensor

from ssl_audio.rng import sample_generator


def mixup(
    waveforms: Tensor,
    targets: Tensor,
    sample_index: Tensor,
    seed: int,
    *,
    prob: float,
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """Convex combinations of some clips with another clip of the batch, and of their targets.

    The weight is Beta(``alpha``, ``alpha``); clips keep their own length. Which clips, with whom
    and how much is a function of the seed, ``sample_index`` and the size of the batch.

    Args:
        waveforms: (B, S), zeros after each clip's end.
        targets: (B, C) float.
        sample_index: (B,) from the batch.
        seed: the run's seed.
        prob: share of the clips that are mixed.
        alpha: above 0.

    Returns:
        Waveforms and targets of the same shapes.

    Raises:
        ValueError: ``prob`` outside [0, 1] or ``alpha`` not above 0.
    """
    if not 0.0 <= prob <= 1.0 or alpha <= 0.0:
        raise ValueError(f"task.mixup: prob={prob}, alpha={alpha}; use prob in [0, 1], alpha > 0")
    size = len(waveforms)
    weights, partners = torch.ones(size), torch.arange(size)
    for clip, index in enumerate(sample_index.tolist()):
        rng = sample_generator(seed, "mixup", index)
        if size > 1 and rng.random() < prob:
            weights[clip] = float(rng.beta(alpha, alpha))
            partners[clip] = (clip + int(rng.integers(1, size))) % size
    weight = weights.to(waveforms.device, non_blocking=True)[:, None]
    partner = partners.to(waveforms.device, non_blocking=True)
    return (
        torch.lerp(waveforms[partner], waveforms, weight),
        torch.lerp(targets[partner], targets, weight.to(targets.dtype)),
    )
