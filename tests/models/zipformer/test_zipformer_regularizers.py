"""Gradient rules against autograd, and the schedules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssl_audio.models.zipformer.balancer import Balancer
from ssl_audio.models.zipformer.limits import ScaleGradient, limit_parameter, penalize_large
from ssl_audio.models.zipformer.schedules import (
    PiecewiseLinear,
    dropout_shared_over_time,
    keep_sequences,
    ramp,
)
from ssl_audio.models.zipformer.whiten import whitening_metric


def gradient(y: Tensor, x: Tensor, upstream: Tensor) -> Tensor:
    return torch.autograd.grad(y, x, upstream)[0]


@pytest.mark.parametrize("channel_dim", [1, -1])
def test_balancer_follows_the_gradient_of_its_penalty(channel_dim: int) -> None:
    torch.manual_seed(0)
    shape = (20, 6, 30) if channel_dim == 1 else (20, 30, 6)
    sizes = torch.tensor([0.01, 1.0, 9.0, 1.0, 1.0, 0.01])
    shifts = torch.tensor([0.0, 0.0, 0.0, 3.0, -3.0, 3.0])
    channels = (1, 6, 1) if channel_dim == 1 else (1, 1, 6)
    x = (torch.randn(shape) + shifts.view(channels)) * sizes.view(channels)
    x.requires_grad_()
    upstream = torch.randn(shape)
    balancer = Balancer(channel_dim, 0.2, 0.8, 0.2, 4.0, grad_scale=0.04, prob=1.0)
    change = (gradient(balancer(x), x, upstream) - upstream) / upstream.abs()

    (low, high), (smallest, largest) = balancer.limits()
    dims = [dim for dim in range(3) if dim != channel_dim % 3]
    mean, std = x.mean(dims), (x.square().mean(dims) - x.mean(dims).square()).sqrt()
    rms, ratio = x.square().mean(dims).sqrt(), mean / std
    penalty = (ratio - ratio.clamp(low, high)).abs()
    penalty = penalty + (rms.clamp(smallest, largest) / rms).log().abs()
    expected = gradient(penalty.sum(), x, torch.ones(()))
    size = expected.square().mean(dims, keepdim=True).sqrt().clamp_min(1e-20)
    torch.testing.assert_close(change, 0.04 * expected / size, atol=1e-4, rtol=1e-3)
    balanced = [1]  # the only channel inside all limits
    assert (change.movedim(channel_dim, 0)[balanced] == 0).all()


@pytest.mark.parametrize("offset", [0.0, 1e-12, 0.3, 391.0, 1e4])
@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_balancer_survives_constant_channels(offset: float, noise: float) -> None:
    torch.manual_seed(0)
    x = (offset * (1 + noise * torch.randn(4, 50, 3))).requires_grad_()
    upstream = torch.randn(4, 50, 3)
    balancer = Balancer(-1, 0.45, 0.55, 0.2, 4.0, grad_scale=0.04, prob=1.0)
    change = (gradient(balancer(x), x, upstream) - upstream) / upstream.abs()
    assert change.square().mean().sqrt() <= 0.05


def test_balancer_needs_training_and_its_probability() -> None:
    x = torch.full((8, 3), 5.0).requires_grad_()
    for balancer in (Balancer(prob=0.0), Balancer(prob=1.0).eval()):
        assert balancer(x) is x


def test_gradient_of_the_whitening_metric() -> None:
    torch.manual_seed(0)
    x = (torch.randn(40, 3, 8) @ torch.randn(8, 8)).requires_grad_()
    for groups in (1, 4):
        metric, actual = whitening_metric(x, groups)
        frames = x.reshape(120, groups, 8 // groups).transpose(0, 1)
        covariances = torch.stack([group.T.cov(correction=0) for group in frames])
        mean_variance = covariances.diagonal(dim1=1, dim2=2).mean()
        expected = covariances.square().sum() / 8 / mean_variance**2
        torch.testing.assert_close(metric, expected)
        torch.testing.assert_close(actual, gradient(expected, x, torch.ones(())))
    white, _ = whitening_metric(torch.randn(20_000, 4), 1)
    assert 1.0 <= white < 1.01


def test_constant_input_is_finite_everywhere() -> None:
    x = torch.zeros(6, 4).requires_grad_()
    metric, push = whitening_metric(x, 2)
    assert metric.isfinite()
    assert push.isfinite().all()
    assert gradient(Balancer(prob=1.0)(x), x, torch.ones(6, 4)).isfinite().all()


def test_limits_turn_only_gradients_that_lead_outside() -> None:
    x = torch.tensor([0.0, 0.0, 0.5, 2.0, 2.0], requires_grad=True)
    upstream = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0])
    actual = gradient(limit_parameter(x, 0.2, 1.0), x, upstream)
    assert actual.tolist() == [-1.0, -1.0, 1.0, 1.0, 1.0]
    assert limit_parameter(x, 0.2, 1.0, probability=0.0) is x


def test_penalty_and_gradient_scale() -> None:
    x = torch.tensor([-30.0, 0.0, 30.0], requires_grad=True)
    torch.testing.assert_close(
        gradient(penalize_large(x), x, torch.zeros(3)), torch.tensor([-1e-4, 0.0, 1e-4])
    )
    assert gradient(ScaleGradient(0.2)(x), x, torch.ones(3)).tolist() == pytest.approx([0.2] * 3)


def test_piecewise_linear() -> None:
    schedule = PiecewiseLinear(((10, 1.0), (20, 3.0), (40, 2.0)))
    assert [schedule(n) for n in (0, 10, 15, 20, 30, 99)] == [1.0, 1.0, 2.0, 3.0, 2.5, 2.0]
    assert ramp(0.0, 1.0, over=4)(1) == 0.25
    with pytest.raises(ValueError, match="rising"):
        PiecewiseLinear(((5, 1.0), (5, 2.0)))


def test_sequence_and_dropout_masks() -> None:
    torch.manual_seed(0)
    keep = keep_sequences(10_000, 0.3, like=torch.zeros(1))
    assert keep is not None
    assert keep.shape == (10_000, 1, 1)
    assert abs(keep.mean().item() - 0.7) < 0.02
    assert keep_sequences(4, 0.0, like=torch.zeros(1)) is None
    x = dropout_shared_over_time(torch.ones(50, 7, 200), 0.25)
    assert torch.equal(x[:, :1].expand_as(x), x)
    assert abs(x.mean().item() - 1) < 0.02
