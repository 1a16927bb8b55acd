"""Which patches are dropped: how many, how they are drawn, and what the positions say."""

from __future__ import annotations

import pytest
import torch

from ssl_audio.tasks.patch_masking import draw_patch_mask, gather_patches, keep_lowest

LENGTHS = torch.tensor([496, 248, 8, 1, 0])
INDEX = torch.tensor([3, 9, 4, 7, 1])


def draw(lengths=LENGTHS, index=INDEX, seed=0, purpose="train"):
    return draw_patch_mask(lengths, index, seed, mask_ratio=0.75, purpose=purpose)


def test_a_quarter_stays_and_every_patch_is_visible_masked_or_padding():
    mask = draw()
    assert mask.num_visible.tolist() == [124, 62, 2, 1, 0]
    assert mask.visible.sum(1).tolist() == mask.num_visible.tolist()
    hidden = torch.zeros(mask.visible.numel(), dtype=torch.bool)
    hidden[mask.masked] = True
    hidden = hidden.view_as(mask.visible)
    assert not (hidden & mask.visible).any()
    assert (hidden | mask.visible).sum(1).tolist() == LENGTHS.tolist()


def test_positions_are_the_visible_patches_in_order():
    mask = draw()
    for row, visible, count in zip(mask.positions, mask.visible, mask.num_visible, strict=True):
        assert row[:count].tolist() == visible.nonzero()[:, 0].tolist()
        assert not row[count:].any()


def test_gathering_keeps_the_order_of_time():
    patches = torch.arange(5 * 496).view(5, 496, 1)
    mask = draw()
    kept = gather_patches(patches, mask.positions)
    assert kept[0, :, 0].tolist() == mask.positions[0].tolist()
    assert kept[1, :62, 0].tolist() == (mask.positions[1, :62] + 496).tolist()


def test_a_clip_is_masked_alike_in_any_batch():
    together, alone = draw(), draw(LENGTHS[1:2], INDEX[1:2])
    assert torch.equal(together.visible[1, :248], alone.visible[0])
    assert torch.equal(together.positions[1, :62], alone.positions[0])
    other = [draw(seed=1), draw(purpose="valid"), draw(index=INDEX + 1)]
    assert all(not torch.equal(mask.visible[0], together.visible[0]) for mask in other)


def test_every_patch_is_equally_likely():
    lengths = torch.full((4000,), 16)
    mask = draw(lengths, torch.arange(4000))
    assert (mask.visible.float().mean(0) - 0.25).abs().max() < 0.03


@pytest.mark.parametrize("ratio", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused(ratio):
    with pytest.raises(ValueError, match=r"task\.mask_ratio=.*choose a share in \[0, 1\)"):
        keep_lowest(torch.zeros(1, 8), torch.tensor([8]), ratio)
