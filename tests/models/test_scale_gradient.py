from __future__ import annotations

import pytest
import torch

from ssl_audio.models.scale_gradient import scale_gradient


@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0])
def test_the_gradient_alone_is_scaled(factor):
    x = torch.randn(3, requires_grad=True)
    scaled = scale_gradient(x, factor)
    assert scaled.equal(x)
    scaled.backward(torch.ones(3))
    assert x.grad is not None
    assert x.grad.tolist() == [factor] * 3
