"""Losses to train with against the NumPy definitions that the golden files hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_audio.probes.metrics.diarization import permutation_invariant_loss
from ssl_audio.probes.metrics.separation import mask_mse
from ssl_audio.probes.superb.losses import activity_loss, mask_loss


@pytest.mark.parametrize("num_speakers", [1, 2, 3])
def test_activity_loss(num_speakers: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 9, num_speakers, requires_grad=True)
    labels = torch.rand(4, 9, num_speakers) > 0.5
    lengths = torch.tensor([9, 5, 2, 7])
    got = activity_loss(logits, labels, lengths)
    want, _ = permutation_invariant_loss(logits.detach().numpy(), labels.numpy(), lengths.numpy())
    assert got.item() == pytest.approx(want, abs=1e-5)
    got.backward()
    assert logits.grad is not None
    assert not logits.grad[2, 2:].any()


@pytest.mark.parametrize("num_sources", [1, 2])
def test_mask_loss(num_sources: int) -> None:
    torch.manual_seed(0)
    mixture = torch.randn(3, 8, 5, dtype=torch.complex64)
    sources = torch.randn(3, num_sources, 8, 5, dtype=torch.complex64)
    masks, lengths = torch.rand(3, num_sources, 8, 5), torch.tensor([8, 3, 6])
    want = mask_mse(
        masks.numpy(),
        np.abs(mixture.numpy()),
        np.angle(mixture.numpy()),
        np.abs(sources.numpy()),
        np.angle(sources.numpy()),
        lengths.numpy(),
    )
    assert mask_loss(masks, mixture, sources, lengths).item() == pytest.approx(want, rel=1e-5)
