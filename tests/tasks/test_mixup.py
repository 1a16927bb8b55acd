"""Mixup: the same weight for samples and targets, clips that stay, refusals."""

from __future__ import annotations

import pytest
import torch

from ssl_audio.tasks.mixup import mixup


def mixed(prob=1.0, alpha=0.8, seed=0, count=6):
    waveforms = torch.eye(count)[:, :, None].expand(-1, -1, 5).flatten(1)
    return mixup(
        waveforms, torch.eye(count), torch.arange(count) + 40, seed, prob=prob, alpha=alpha
    )


def test_samples_and_targets_have_the_same_weights():
    waveforms, targets = mixed()
    torch.testing.assert_close(waveforms.unflatten(1, (6, 5))[..., 0], targets)
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    assert ((targets > 0).sum(1) <= 2).all()
    assert (targets.diagonal() < 1).any()


def test_some_clips_stay():
    _, targets = mixed(prob=0.5, count=400)
    assert 150 < int((targets.diagonal() == 1).sum()) < 250
    assert torch.equal(mixed(prob=0.0)[1], torch.eye(6))
    assert torch.equal(mixed(count=1)[1], torch.eye(1))


def test_the_draw_depends_on_seed_and_place():
    assert torch.equal(mixed()[1], mixed()[1])
    assert not torch.equal(mixed()[1], mixed(seed=1)[1])


@pytest.mark.parametrize("settings", [{"prob": 1.2}, {"alpha": 0.0}])
def test_what_is_out_of_range_is_refused(settings):
    with pytest.raises(ValueError, match=r"task\.mixup"):
        mixed(**settings)
