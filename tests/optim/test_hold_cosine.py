"""Shape of the schedule beside the golden values."""

from __future__ import annotations

import itertools

import pytest

from ssl_audio.optim.hold_cosine import warmup_hold_cosine_lr


def test_up_level_down():
    rates = [warmup_hold_cosine_lr(2.0, step, 10, 20, hold_steps=5) for step in range(60)]
    assert rates[0] == 0
    assert rates[5] == 1.0
    assert rates[10:16] == [2.0] * 6
    assert rates[25] == pytest.approx(1.0)
    assert rates[35:] == [0.0] * 25
    assert all(x >= y for x, y in itertools.pairwise(rates[15:]))


@pytest.mark.parametrize("constants", [(-1, 20, 0, 0), (0, 0, 0, 0), (0, 20, 0, 1.5)])
def test_constants_out_of_range(constants):
    warmup, total, hold, factor = constants
    with pytest.raises(ValueError, match=r"task\.schedule"):
        warmup_hold_cosine_lr(1.0, 0, warmup, total, hold_steps=hold, min_factor=factor)
