"""Views: functions of seed and place, masks in the clip, warps that keep the length."""

from __future__ import annotations

import pytest
import torch

from ssl_audio.tasks.feature_perturbation import Perturbation

LENGTHS = torch.tensor([40, 25, 1, 0])


def perturbation(masks=(), stretch_prob=0.0):
    return Perturbation(masks, stretch_prob, (0.2, 0.8), (0.8, 1.5))


def draw(chosen, seed=0, lengths=LENGTHS, purpose="train/view"):
    return chosen.draw(lengths, 40, torch.arange(len(lengths)), seed, purpose)


def test_a_view_is_a_function_of_seed_purpose_and_place():
    chosen = perturbation([(0.4, 0.2, 10), (0.4, 0.3, 5)], 0.2)
    many = torch.full((50,), 40)
    whole = draw(chosen, lengths=many)
    part = chosen.draw(many[:3], 40, torch.tensor([7, 3, 49]), 0, "train/view")
    assert torch.equal(part.mask, whole.mask[[7, 3, 49]])
    assert torch.equal(part.source, whole.source[[7, 3, 49]])
    for other in (draw(chosen, seed=1, lengths=many), draw(chosen, lengths=many, purpose="other")):
        assert not torch.equal(other.mask, whole.mask)
    identity = torch.arange(40.0)
    warped = (whole.source != identity).any(1)
    # one thing at a time, to about the shares asked for
    assert not (warped & whole.mask.any(1)).any()
    assert 3 <= warped.sum() <= 18
    assert whole.mask.any(1).sum() >= 30


def test_masks_stay_inside_the_clip():
    view = draw(perturbation([(1.0, 0.5, 5)]))
    beyond = torch.arange(40) >= LENGTHS[:, None]
    assert view.mask.any()
    assert not (view.mask & beyond).any()
    frames = torch.randn(4, 40, 3)
    embedding = torch.tensor([1.0, 2.0, 3.0])
    seen = view(frames, embedding)
    assert (seen[view.mask] == embedding).all()
    assert torch.equal(seen[~view.mask], frames[~view.mask])


def test_a_stretch_keeps_the_ends_and_the_order():
    many = torch.full((30,), 40)
    view = draw(perturbation(stretch_prob=1.0), lengths=many)
    assert (view.source.diff(dim=1) >= -1e-5).all()
    assert view.source.min() >= 0
    assert view.source.max() <= 39
    assert ((view.source - torch.arange(40.0)).abs().amax(1) > 0.5).sum() > 20
    ramp = torch.arange(40.0)[None, :, None].expand(30, 40, 2).contiguous()
    torch.testing.assert_close(view(ramp, torch.zeros(2))[:, :, 0], view.source)


def test_part_by_part_it_is_linear_interpolation():
    lengths = torch.tensor([20])
    for index in range(20):
        source = perturbation(stretch_prob=1.0).draw(lengths, 20, torch.tensor([index]), 0, "x")
        row = source.source[0]
        found = [
            torch.allclose(row, torch.cat([resized(0, split, new), resized(split, 20, 20 - new)]))
            for split in range(1, 20)
            for new in range(1, 20)
        ]
        assert any(found)


def resized(start: int, stop: int, count: int) -> torch.Tensor:
    part = torch.arange(start, stop, dtype=torch.float32)[None, None]
    return torch.nn.functional.interpolate(part, count, mode="linear")[0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([(0.8, 0.2, 10)], 0.3, (0.2, 0.8), (0.8, 1.5)), "above 1 together"),
        (([], 0.3, (0.8, 0.2), (0.8, 1.5)), "stretch_split"),
        (([], 0.3, (0.2, 0.8), (0.0, 1.5)), "stretch_scale"),
    ],
)
def test_shares_and_ranges_that_are_none(arguments, message):
    with pytest.raises(ValueError, match=message):
        Perturbation(*arguments)
