"""Group norm, waveform normalisation and clocks that look at valid samples only."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssl_audio.models.padding import (
    MaskedGroupNorm,
    conv_frames,
    normalized,
    padded_to,
    receptive_field,
)

HUBERT = [(512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2]


def test_masked_group_norm_is_group_norm_of_each_clip():
    torch.manual_seed(0)
    norm = nn.GroupNorm(6, 6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    masked = MaskedGroupNorm.replacing(norm)
    assert list(masked.state_dict()) == list(norm.state_dict())
    x = 5 + torch.randn(3, 6, 40)
    masked.lengths = torch.tensor([40, 23, 0])
    out = masked(x)
    for row, length in enumerate((40, 23)):
        alone = norm(x[row : row + 1, :, :length])[0]
        torch.testing.assert_close(out[row, :, :length], alone, atol=1e-5, rtol=1e-5)
    assert out.isfinite().all()
    masked.lengths = torch.tensor([40, 40, 40])
    assert torch.equal(masked(x), norm(x))


def test_normalized_clips_have_zero_mean_and_unit_variance():
    torch.manual_seed(0)
    waveforms = 0.3 + 0.1 * torch.randn(3, 500)
    out = normalized(waveforms, torch.tensor([500, 120, 0]), eps=1e-7)
    for row, length in enumerate((500, 120)):
        clip = out[row, :length]
        assert clip.mean().abs() < 1e-5
        assert clip.var(correction=0).item() == pytest.approx(1, abs=1e-3)
        assert not out[row, length:].any()
    assert not out[2].any()


@pytest.mark.parametrize("num_samples", [0, 399, 400, 719, 720, 16_000, 160_000])
def test_conv_frames_is_the_clock_of_the_convolutions(num_samples):
    """HuBERT: 400 samples a frame, 320 apart; compared with strides run on real tensors."""
    x = torch.zeros(1, 1, num_samples)
    for _, kernel, stride in HUBERT:
        x = x.unfold(2, kernel, stride)[..., 0] if x.shape[2] >= kernel else x[:, :, :0]
    assert conv_frames(num_samples, HUBERT) == x.shape[2]
    assert conv_frames(torch.tensor([num_samples]), HUBERT).tolist() == [x.shape[2]]


def test_receptive_field_is_the_shortest_clip_with_a_frame():
    field = receptive_field(HUBERT)
    assert field == 400
    assert (conv_frames(field - 1, HUBERT), conv_frames(field, HUBERT)) == (0, 1)
    assert padded_to(torch.ones(2, 3), field).shape == (2, field)
    assert padded_to(torch.ones(2, 500), field).shape == (2, 500)
