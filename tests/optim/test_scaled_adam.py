from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ssl_audio.optim import ScaledAdam, scaled_adam

SHAPES = [(4, 3), (5,), (4, 3), (), (2, 3, 2), (4, 3), (1,), ()]


def make_params(scale: float = 1.0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(scale * torch.randn(shape, generator=generator)) for shape in SHAPES]


def gradient(step: int, index: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(100 * step + index)
    spike = 50.0 if step in (13, 22, 45) else 1.0
    return spike * torch.randn(shape, generator=generator)


def train(
    optimizer: ScaledAdam, params: list[nn.Parameter], steps: range, scale: float = 1.0
) -> None:
    for step in steps:
        for index, param in enumerate(params):
            param.grad = scale * gradient(step, index, tuple(param.shape))
        optimizer.step()


def assert_equal(ours: list[nn.Parameter], theirs: list[nn.Parameter], **tolerance: float) -> None:
    for mine, yours in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.data, yours.data, **(tolerance or {"rtol": 0, "atol": 0}))


def save_and_load(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("stopped_at", [1, 2, 11, 23, 43])
def test_resumes_exactly(stopped_at: int) -> None:
    straight = make_params()
    train(ScaledAdam(straight), straight, range(50))

    before = make_params()
    optimizer = ScaledAdam(before)
    train(optimizer, before, range(stopped_at))
    state = save_and_load(optimizer.state_dict())
    after = [nn.Parameter(param.detach().clone()) for param in before]
    optimizer = ScaledAdam(after)
    optimizer.load_state_dict(state)
    train(optimizer, after, range(stopped_at, 50))
    assert_equal(after, straight)


def test_state_is_kept_per_parameter() -> None:
    params = make_params()
    optimizer = ScaledAdam(params)
    train(optimizer, params, range(3))
    state = optimizer.state_dict()["state"]
    assert state.keys() == set(range(len(SHAPES)))
    for index, shape in enumerate(SHAPES):
        assert state[index]["momentum"].shape == shape
        assert ("rms" in state[index]) == (params[index].numel() > 1)


def test_stacking_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stacked = make_params()
    train(ScaledAdam(stacked), stacked, range(45))
    monkeypatch.setitem(scaled_adam.MAX_STACK_ELEMENTS, "cpu", 1)
    single = make_params()
    train(ScaledAdam(single), single, range(45))
    assert_equal(single, stacked, rtol=1e-5, atol=1e-6)


def test_steps_are_relative_to_the_size() -> None:
    """Scaling a tensor and unscaling its gradient leaves the trajectory, up to that scale."""
    params, larger = make_params(), make_params(8.0)
    settings = {"clipping_scale": None, "param_rms_limits": (1e-5, 1e9), "eps": 1e-30}
    train(ScaledAdam(params, **settings), params, range(20))
    train(ScaledAdam(larger, **settings), larger, range(20), scale=1 / 8.0)
    for small, large in zip(params, larger, strict=True):
        if small.numel() > 1:
            torch.testing.assert_close(8.0 * small.data, large.data, rtol=1e-4, atol=1e-5)


def test_a_missing_gradient_is_a_zero_gradient() -> None:
    missing, zero = make_params(), make_params()
    for params, fill in ((missing, lambda param: None), (zero, torch.zeros_like)):
        optimizer = ScaledAdam(params)
        for step in range(8):
            for index, param in enumerate(params):
                idle = index == 2 and step % 3 == 0
                grad = gradient(step, index, tuple(param.shape))
                param.grad = fill(param) if idle else grad
            optimizer.step()
    assert_equal(missing, zero)


def test_a_step_without_any_gradient_never_happened() -> None:
    straight, interrupted = make_params(), make_params()
    optimizer = ScaledAdam(straight)
    train(optimizer, straight, range(12))

    other = ScaledAdam(interrupted)
    for step in range(12):
        train(other, interrupted, range(step, step + 1))
        other.zero_grad(set_to_none=True)
        other.step()
    assert_equal(interrupted, straight)
    assert other.param_groups[0]["num_steps"] == optimizer.param_groups[0]["num_steps"] == 12
    assert torch.equal(
        other.state[interrupted[0]]["momentum"], optimizer.state[straight[0]]["momentum"]
    )


def test_a_spike_above_the_threshold_counts_as_the_threshold() -> None:
    def train_with_spike(size: float, clipping_scale: float | None) -> list[nn.Parameter]:
        params = make_params()
        optimizer = ScaledAdam(params, clipping_scale=clipping_scale)
        for step in range(12, 60):
            train(optimizer, params, range(step, step + 1), scale=size if step == 34 else 1.0)
        return params

    assert_equal(train_with_spike(1e3, 2.0), train_with_spike(1e5, 2.0), rtol=1e-4, atol=1e-6)
    free = train_with_spike(1e3, None), train_with_spike(1e5, None)
    assert not torch.allclose(free[0][0], free[1][0], rtol=1e-2)


def test_grad_norm_weighs_gradients_by_size() -> None:
    params = [nn.Parameter(torch.full((3,), 2.0)), nn.Parameter(torch.tensor(5.0))]
    optimizer = ScaledAdam(params, lr=0.0)
    for _ in range(2):
        params[0].grad, params[1].grad = torch.tensor([3.0, 0.0, 4.0]), torch.tensor(7.0)
        optimizer.step()
    assert optimizer.grad_norm is not None
    assert optimizer.grad_norm.item() == pytest.approx(((5 * 2.0) ** 2 + (0.1 * 7) ** 2) ** 0.5)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_non_finite_gradient_poisons_nothing(poison: float) -> None:
    params = make_params()
    optimizer = ScaledAdam(params)
    train(optimizer, params, range(5))
    for param in params:
        param.grad = torch.zeros_like(param)
    params[0].grad[0, 0] = poison
    optimizer.step()
    train(optimizer, params, range(6, 12))
    assert all(param.isfinite().all() for param in params)
    assert all(
        value.isfinite().all()
        for state in optimizer.state.values()
        for name, value in state.items()
        if not name.startswith("clipping_")
    )


def test_mostly_non_finite_gradients_stop_the_run() -> None:
    params = make_params()
    optimizer = ScaledAdam(params)
    train(optimizer, params, range(2))

    def diverge() -> None:
        for _ in range(10):
            for param in params:
                param.grad = torch.full_like(param, torch.nan)
            optimizer.step()

    with pytest.raises(
        RuntimeError, match="gradient norms are not finite; lower the learning rate"
    ):
        diverge()


def test_scalars_stay_within_their_limit() -> None:
    scalar = nn.Parameter(torch.tensor(9.99))
    optimizer = ScaledAdam([scalar], lr=10.0, scalar_max=10.0)
    for _ in range(20):
        scalar.grad = torch.tensor(-1.0)
        optimizer.step()
    assert scalar.item() == 10.0


def test_groups_have_their_own_rates() -> None:
    params = make_params()
    optimizer = ScaledAdam([{"params": params[:4]}, {"params": params[4:], "lr": 0.0}])
    start = [param.detach().clone() for param in params]
    train(optimizer, params, range(6))
    moved = [not torch.equal(p, s) for p, s in zip(params, start, strict=True)]
    assert moved == [True] * 4 + [False] * 4


def test_closure_is_run_with_gradients() -> None:
    param = nn.Parameter(torch.ones(3))
    optimizer = ScaledAdam([param])

    def closure() -> float:
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 3.0
    assert (param < 1).all()


def test_fits_a_linear_map_under_a_schedule() -> None:
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(64, 8, generator=generator), torch.randn(8, 4, generator=generator)
    weight = nn.Parameter(0.3 * torch.randn(8, 4, generator=generator))
    optimizer = ScaledAdam([weight], lr=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step / 50))
    losses = []
    for _ in range(400):
        optimizer.zero_grad()
        loss = (x @ (weight - target)).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-2 * losses[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScaledAdam(make_params(), lr=-1.0), "lr >= 0"),
        (lambda: ScaledAdam(make_params(), betas=(0.9, 1.0)), "betas in"),
        (lambda: ScaledAdam(make_params(), clipping_scale=0.0), "clipping_scale is 0.0"),
    ],
)
def test_wrong_arguments_are_named(make: Callable[[], ScaledAdam], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
