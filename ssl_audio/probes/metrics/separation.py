"""Source separation: scale-invariant SDR and mask losses under the best assignment.

Axes: B mixtures, S sources, N samples, T frames, F bins. Definitions: s3prl
``downstream/enhancement_stft/loss.py``; Le Roux et al., "SDR - half-baked or well done?",
arXiv:1811.02508; masks of Kolbaek et al., arXiv:1703.06284.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import permutations
from typing import Literal

import numpy as np

EPSILON = 1e-8

MaskType = Literal["AM", "PSM", "NPSM"]
# What the cosine of the phase difference to the mixture contributes to the target magnitude.
_PHASE_WEIGHT: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "AM": np.ones_like,
    "PSM": np.asarray,
    "NPSM": lambda cosine: np.maximum(cosine, 0),
}


def pairwise_negative_si_sdr(
    estimates: np.ndarray, targets: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """(B, S, S) negative SI-SDR in dB of estimate i against target j, means removed.

    Args:
        estimates, targets: (B, S, N); samples past the length are ignored.
        lengths: (B,) valid samples.
    """
    lengths = np.asarray(lengths)
    valid = (np.arange(np.shape(targets)[2]) < lengths[:, None])[:, None]
    estimate, target = (_centred(x, valid, lengths) for x in (estimates, targets))
    dot = np.einsum("bin,bjn->bij", estimate, target)
    scale = dot / ((target**2).sum(-1) + EPSILON)[:, None]
    projected = scale[..., None] * target[:, None]
    noise = estimate[:, :, None] - projected
    ratio = (projected**2).sum(-1) / ((noise**2).sum(-1) + EPSILON)
    return -10 * np.log10(ratio + EPSILON)


def si_sdr_improvement(
    estimates: np.ndarray, targets: np.ndarray, mixtures: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """(B,) SI-SDRi in dB: gain over the unprocessed mixture, mean over sources, best assignment.

    Args:
        estimates, targets: (B, S, N).
        mixtures: (B, N).
        lengths: (B,) valid samples.
    """
    negative, _ = best_assignment(pairwise_negative_si_sdr(estimates, targets, lengths))
    copies = np.broadcast_to(np.asarray(mixtures)[:, None], np.shape(targets))
    baseline = pairwise_negative_si_sdr(copies, targets, lengths)
    return np.diagonal(baseline, axis1=1, axis2=2).mean(1) - negative


def mask_mse(
    masks: np.ndarray,
    mixture_magnitude: np.ndarray,
    mixture_phase: np.ndarray,
    target_magnitude: np.ndarray,
    target_phase: np.ndarray,
    num_frames: np.ndarray,
    *,
    mask_type: MaskType = "NPSM",
) -> float:
    """Squared error of masked mixtures, summed over bins, mean over frames, sources and batch.

    Args:
        masks, target_magnitude, target_phase: (B, S, T, F).
        mixture_magnitude, mixture_phase: (B, T, F), phase in radians.
        num_frames: (B,) valid frames; later ones are ignored.
        mask_type: target magnitude as it is (AM), times the cosine of its phase difference to the
            mixture (PSM), or with that cosine clipped at 0 (NPSM).
    """
    cosine = np.cos(np.asarray(mixture_phase)[:, None] - target_phase)
    wanted = target_magnitude * _PHASE_WEIGHT[mask_type](cosine)
    num_frames = np.asarray(num_frames)
    valid = np.arange(wanted.shape[2]) < num_frames[:, None]
    masked = masks * np.asarray(mixture_magnitude)[:, None]
    error = (masked[:, :, None] - wanted[:, None]) ** 2
    cost = np.einsum("bijtf,bt->bij", error, valid) / num_frames[:, None, None]
    return float(best_assignment(cost)[0].mean())


def best_assignment(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(B,) lowest mean over sources of (B, S, S) costs, and (B, S) the target of each estimate."""
    sources = np.arange(cost.shape[1])
    choices = np.array(list(permutations(sources)))
    totals = cost[:, sources, choices].mean(-1)
    return totals.min(1), choices[totals.argmin(1)]


def _centred(signal: np.ndarray, valid: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    signal = np.asarray(signal, dtype=np.float64) * valid
    return (signal - signal.sum(2, keepdims=True) / lengths[:, None, None]) * valid
