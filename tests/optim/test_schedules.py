from __future__ import annotations

import pytest

from ssl_audio.optim.schedules import eden_lr


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
