"""A step that is not finite is skipped by all ranks, and too many of them end the run."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def equal(ours, theirs):
    return all(map(torch.equal, ours, theirs))


@pytest.mark.ddp
def test_all_ranks_skip_a_step_that_is_not_finite_on_one(program, two_ranks):
    bad = program.POISONED_STEP
    for rank in two_ranks:
        parameters = rank["skipped"]
        assert equal(parameters[bad], parameters[bad - 1])
        assert not equal(parameters[bad + 1], parameters[bad])
        assert not equal(parameters[bad - 1], parameters[bad - 2])
        assert all(parameter.isfinite().all() for parameter in parameters[-1])
    for ours, theirs in zip(two_ranks[0]["skipped"], two_ranks[1]["skipped"], strict=True):
        assert equal(ours, theirs)


@pytest.mark.ddp
def test_the_clip_is_named_by_the_rank_that_had_it(program, two_ranks):
    batches = program.make_batches(2 * program.STEPS)
    healthy, poisoned = batches[2 * program.POISONED_STEP : 2 * program.POISONED_STEP + 2]
    start = f"step {program.POISONED_STEP} skipped on all ranks: gradient norm nan; rank"
    assert two_ranks[0]["messages"] == [f"{start} 0: finite losses, of {', '.join(healthy.ids)}"]
    assert two_ranks[1]["messages"] == [f"{start} 1: the loss of {poisoned.ids[1]} is not finite"]


@pytest.mark.ddp
def test_too_many_skipped_steps_end_the_run_on_all_ranks(two_ranks):
    for rank in two_ranks:
        assert rank["abort"].startswith("3 steps in a row had a gradient that is not finite; lower")
        assert "\n" not in rank["abort"]
        assert rank["abort_step"] == 2


def test_a_skipped_step_leaves_the_optimizer_as_it_was(program):
    """Training goes on as if the poisoned batch had not been there, but for the schedule."""
    batches = program.make_batches(6)
    flat = {"lr_batches": 1e9, "lr_hours": 1e9, "warmup_batches": 0}
    poisoned = [*batches[:3], program.poison(batches[3], clip=0), *batches[3:]]

    with_gap = program.make_task(schedule=flat)
    without = program.make_task(schedule=flat)
    skipped = program.fit(with_gap, poisoned, steps=7)
    straight = program.fit(without, batches, steps=6)
    assert equal(skipped.parameters[3], skipped.parameters[2])
    assert equal(skipped.parameters[-1], straight.parameters[-1])


def test_one_bad_micro_batch_skips_the_whole_step(program, caplog):
    batches = program.make_batches(4)
    batches[1] = program.poison(batches[1], clip=2)
    seen = program.fit(program.make_task(), batches, accumulate=2, steps=2)
    before = list(program.make_task().parameters())
    assert equal(seen.parameters[1], before)
    assert not equal(seen.parameters[3], before)
    assert f"rank 0: the loss of {batches[1].ids[2]} is not finite" in caplog.text


def test_the_count_of_skipped_steps_survives_a_checkpoint(program):
    task, checkpoint = program.make_task(), {}
    task._skipped_in_a_row = 7
    task.on_save_checkpoint(checkpoint)
    resumed = program.make_task()
    resumed.on_load_checkpoint(checkpoint)
    assert resumed._skipped_in_a_row == 7
