from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from ssl_audio.probes.isolation import undisturbed


def random_states():
    numpy_state = np.random.get_state()[1].tolist()  # noqa: NPY002
    return random.getstate(), numpy_state, torch.get_rng_state().tolist()


def draw_and_fail(module):
    with undisturbed(module):
        assert not module.training
        assert not torch.is_grad_enabled()
        random.random(), np.random.rand(), torch.rand(3)  # noqa: NPY002
        raise RuntimeError("inside")


def test_modes_and_random_states_survive_even_an_error():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2))
    module.train()
    module[1].eval()
    before = random_states()
    with pytest.raises(RuntimeError, match="inside"):
        draw_and_fail(module)
    assert random_states() == before
    assert [child.training for child in module.modules()] == [True, True, False, True]
    assert torch.is_grad_enabled()


def test_a_table_kept_from_inside_can_be_trained_with():
    class Keeps(nn.Module):
        table: torch.Tensor | None = None

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self) -> torch.Tensor:
            if self.table is None:
                self.table = torch.arange(2.0)
            return (self.table * self.weight).sum()

    module = Keeps()
    with undisturbed(module):
        module()
    module().backward()
    assert module.weight.grad is not None


def test_autocast_is_off_inside():
    module = nn.Linear(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module(torch.ones(1, 4)).dtype == torch.bfloat16
        with undisturbed(module):
            assert module(torch.ones(1, 4)).dtype == torch.float32
