"""The exported encoder: a mean over the end of training, of the steps that are asked for."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback

from ssl_audio.tasks.weight_average import WeightAverage


class Weights(Callback):
    """The encoder's weights after every optimizer step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        state = pl_module.encoder.state_dict()
        self.seen.append({name: x.clone() for name, x in state.items()})


def test_the_finished_encoder_is_the_mean_over_the_last_steps(program):
    weights = Weights()
    task = program.make_task(average={"every": 2, "steps": 5}, max_steps=6)
    program.fit(task, program.make_batches(6), steps=6, callbacks=[weights])
    finished = task.finished_encoder().state_dict()
    moved = False
    for name, x in finished.items():
        taken = [weights.seen[step - 1][name] for step in (2, 4, 6)]
        if x.is_floating_point():
            torch.testing.assert_close(x, torch.stack(taken).mean(0))
            moved |= not torch.allclose(x, taken[-1], rtol=1e-3)
        else:
            assert torch.equal(x, taken[-1])
    assert moved  # else the last weights would pass too
    for name, x in task.encoder.state_dict().items():
        assert torch.equal(x, weights.seen[-1][name])


def test_without_an_average_it_is_the_encoder_itself(program):
    task = program.make_task()
    assert task.finished_encoder() is task.encoder
    task = program.make_task(average={"every": 200, "steps": 16_000})
    assert task.finished_encoder() is task.encoder  # a run of few steps has nothing to average


def test_an_interval_of_no_steps_is_one_line():
    with pytest.raises(ValueError, match=r"task\.average has every=0, steps=10: choose at least 1"):
        WeightAverage(0, 10, 100)
