"""Masks on the features: where they lie, how wide they get, on what they depend."""

from __future__ import annotations

import pytest
import torch

from ssl_audio.tasks.spec_augment import spec_augment

SETTINGS = {"time_masks": 1, "max_time_share": 0.2, "channel_masks": 1, "max_channels": 10}


def augment(features, lengths=None, index=None, seed=0, **settings):
    count = len(features)
    lengths = torch.full((count,), features.shape[1]) if lengths is None else lengths
    index = torch.arange(count) if index is None else index
    return spec_augment(features, lengths, index, seed, **SETTINGS | settings)


def test_masks_are_stretches_within_their_limits():
    masked = augment(torch.ones(200, 50, 30)) == 0
    frames, channels = masked.all(2).sum(1), masked.all(1).sum(1)
    assert frames.max() == 10
    assert channels.max() == 10
    assert torch.equal(masked, masked.all(2)[..., None] | masked.all(1)[:, None])
    for row in masked.all(2):
        hidden = row.nonzero()[:, 0]
        assert len(hidden) == 0 or hidden[-1] - hidden[0] + 1 == len(hidden)


def test_time_masks_stay_inside_the_clip():
    masked = augment(
        torch.ones(100, 50, 4), torch.full((100,), 20), channel_masks=0, max_time_share=1.0
    )
    assert (masked[:, 20:] == 1).all()
    assert (masked[:, :20] == 0).any()


def test_the_input_is_left_alone_and_the_draw_belongs_to_the_clip():
    features = torch.ones(4, 50, 30)
    index = torch.tensor([8, 3, 5, 6])
    together = augment(features, index=index)
    assert (features == 1).all()
    assert torch.equal(together[2:3], augment(features[2:3], index=index[2:3]))
    assert not torch.equal(together, augment(features, index=index, seed=1))


def test_no_masks_change_nothing():
    features = torch.randn(3, 9, 5)
    assert torch.equal(augment(features, time_masks=0, channel_masks=0), features)


def test_a_share_above_one_is_refused():
    with pytest.raises(ValueError, match=r"task\.spec_augment: max_time_share=1\.5"):
        augment(torch.ones(1, 5, 5), max_time_share=1.5)
