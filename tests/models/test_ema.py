"""A teacher that follows, or stands still, and survives a checkpoint."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ssl_audio.models.ema import EMA


def student() -> nn.Module:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    module[0].bias.requires_grad_(False)
    return module


def moved(module: nn.Module) -> nn.Module:
    other = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.add_(1)
    return other


def test_trained_weights_move_and_the_rest_is_copied():
    module = student()
    teacher, target = EMA(module, 0.75), moved(module)
    teacher.update(target)
    torch.testing.assert_close(teacher.module[0].weight, module[0].weight + 0.25)
    assert torch.equal(teacher.module[0].bias, target[0].bias)
    assert torch.equal(teacher.module[1].running_mean, target[1].running_mean)


def test_decay_one_never_moves():
    module = student()
    teacher = EMA(module, 1.0)
    before = copy.deepcopy(teacher.state_dict())
    for _ in range(3):
        teacher.update(moved(module))
    assert all(torch.equal(x, before[name]) for name, x in teacher.state_dict().items())


def test_frozen_in_eval_mode_and_whole_in_the_state_dict():
    outer = nn.ModuleDict({"student": student()})
    outer["teacher"] = EMA(outer["student"], 0.9)
    outer.train()
    assert not any(module.training for module in outer["teacher"].modules())
    assert not any(p.requires_grad for p in outer["teacher"].parameters())
    outer["teacher"].update(moved(outer["student"]))
    saved = copy.deepcopy(outer.state_dict())
    fresh = nn.ModuleDict({"student": student(), "teacher": EMA(student(), 0.9)})
    fresh.load_state_dict(saved)
    assert all(torch.equal(x, saved[name]) for name, x in fresh.state_dict().items())


def test_a_decay_that_is_none():
    with pytest.raises(ValueError, match=r"decay is 1\.5, choose one in 0"):
        EMA(student(), 1.5)
