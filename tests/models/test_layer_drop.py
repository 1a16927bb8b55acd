"""Dropped layers: a probability, and gradients that are zero rather than absent."""

from __future__ import annotations

import torch
from torch import nn

from ssl_audio.models.layer_drop import is_dropped, skipped


def test_probability():
    torch.manual_seed(0)
    share = sum(is_dropped(0.3, training=True) for _ in range(1000)) / 1000
    assert 0.25 < share < 0.35
    assert not any(is_dropped(0.9, training=False) for _ in range(20))


def test_zero_gradients_of_what_is_trained():
    layer, x = nn.Linear(3, 3), torch.randn(2, 3, requires_grad=True)
    layer.bias.requires_grad_(False)
    out = skipped(layer, x)
    assert torch.equal(out, x)
    (2 * out).sum().backward()
    assert (x.grad == 2).all()
    assert layer.weight.grad is not None
    assert not layer.weight.grad.any()
    assert layer.bias.grad is None
    with torch.no_grad():
        assert skipped(layer, x) is x
