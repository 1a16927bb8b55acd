from __future__ import annotations

import pytest

from ssl_audio.optim.schedules import eden_lr, warmup_decay_lr


def test_warm_up_is_linear_then_over() -> None:
    settings = {"epoch": 0.0, "lr_batches": 1e12, "lr_epochs": 1.0, "warmup_batches": 100.0}
    rates = [eden_lr(2.0, batch, **settings) for batch in (0, 25, 50, 100, 5000)]
    assert rates == pytest.approx([1.0, 1.25, 1.5, 2.0, 2.0])
    assert eden_lr(2.0, 0, **(settings | {"warmup_batches": 0})) == pytest.approx(2.0)


def test_late_rates_fall_with_the_square_root() -> None:
    late = [eden_lr(1.0, batch, 0.0, 10.0, 1.0, 0.0) for batch in (1e6, 4e6)]
    assert late[0] / late[1] == pytest.approx(2.0, rel=1e-6)
    hours = [eden_lr(1.0, 0.0, hour, 10.0, 1.0, 0.0) for hour in (1e6, 4e6)]
    assert hours[0] / hours[1] == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"lr_batches": 0.0}, {"lr_epochs": -1.0}, {"warmup_batches": -1}, {"warmup_start": 2}]
)
def test_wrong_constants_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        eden_lr(1.0, 0, 0.0, **({"lr_batches": 1.0, "lr_epochs": 1.0} | wrong))


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_warm_up_and_decay_pass_through_their_three_rates(shape):
    rates = [
        warmup_decay_lr(5e-4, step, 32, 400, shape=shape, start_lr=1e-5, end_lr=1e-6)
        for step in range(500)
    ]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[32] == pytest.approx(5e-4)
    assert max(rates) == rates[32]
    assert rates[216] == pytest.approx((5e-4 + 1e-6) / 2)  # half-way down
    assert rates[400:] == [pytest.approx(1e-6)] * 100
    assert rates[:33] == sorted(rates[:33])
    assert rates[32:] == sorted(rates[32:], reverse=True)


def test_without_warm_up_it_starts_at_the_top():
    assert warmup_decay_lr(1.0, 0, 0, 10) == 1.0


@pytest.mark.parametrize("wrong", [{"warmup_steps": 10}, {"end_lr": 2.0}, {"start_lr": -1.0}])
def test_a_schedule_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=r"task\.schedule: needs 0 <= warmup_steps < max_steps"):
        warmup_decay_lr(1.0, 0, **{"warmup_steps": 2, "max_steps": 10} | wrong)
    with pytest.raises(ValueError, match=r"task\.schedule\.shape=square"):
        warmup_decay_lr(1.0, 0, 1, 10, shape="square")
