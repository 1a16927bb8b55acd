from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from ssl_audio.probes.metrics.separation import (
    best_assignment,
    mask_mse,
    pairwise_negative_si_sdr,
    si_sdr_improvement,
)


@pytest.fixture
def sources():
    return np.random.default_rng(0).standard_normal((2, 2, 400))


def test_equal_to_torchmetrics(sources):
    estimates = sources + 0.3 * np.random.default_rng(1).standard_normal(sources.shape)
    ours = pairwise_negative_si_sdr(estimates, sources, [400, 400])
    theirs = scale_invariant_signal_distortion_ratio(
        torch.from_numpy(estimates), torch.from_numpy(sources), zero_mean=True
    )
    np.testing.assert_allclose(-np.diagonal(ours, axis1=1, axis2=2), theirs, atol=1e-5)


def test_scale_offset_and_padding_play_no_part(sources):
    estimates = sources + 0.3 * np.random.default_rng(1).standard_normal(sources.shape)
    short = pairwise_negative_si_sdr(estimates[..., :300], sources[..., :300], [300, 300])
    other = 5 * estimates + 1
    other[..., 300:] = 1e3
    np.testing.assert_allclose(pairwise_negative_si_sdr(other, sources, [300, 300]), short)


def test_improvement_over_the_mixture(sources):
    mixtures = sources.sum(1)
    copies = np.broadcast_to(mixtures[:, None], sources.shape)
    lengths = [400, 250]
    np.testing.assert_allclose(si_sdr_improvement(copies, sources, mixtures, lengths), 0, atol=1e-9)
    swapped = (0.9 * sources + 0.1 * sources[:, ::-1])[:, ::-1]
    gain = si_sdr_improvement(swapped, sources, mixtures, lengths)
    np.testing.assert_allclose(gain, 20 * np.log10(9), atol=1.0)


def test_assignment_is_the_cheapest():
    cost = np.array([[[3.0, 1, 9], [1, 9, 9], [9, 9, 2]]])
    lowest, choice = best_assignment(cost)
    assert choice.tolist() == [[1, 0, 2]]
    assert lowest.tolist() == [pytest.approx(4 / 3)]


def test_ideal_masks_have_no_loss():
    rng = np.random.default_rng(3)
    magnitude, phase = rng.random((1, 2, 5, 4)), rng.uniform(-3, 3, (1, 2, 5, 4))
    mixture, mixture_phase = 1 + rng.random((1, 5, 4)), rng.uniform(-3, 3, (1, 5, 4))
    cosine = np.cos(mixture_phase[:, None] - phase)
    weights = {"AM": 1, "PSM": cosine, "NPSM": np.maximum(cosine, 0)}
    for mask_type, weight in weights.items():
        ideal = magnitude * weight / mixture[:, None]
        given = (mixture, mixture_phase, magnitude, phase, [5])
        assert mask_mse(ideal[:, ::-1], *given, mask_type=mask_type) == pytest.approx(0)
