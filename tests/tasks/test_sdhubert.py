"""Tiny fits: what is frozen, what the teacher follows, what does not change anything."""

from __future__ import annotations

import copy
import math

import pytest
import torch

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def make_task(hubert_parts):
    return hubert_parts.sdhubert_task


def test_layers_and_heads_move_and_the_front_stands_still(program, make_task):
    task = make_task()
    before = copy.deepcopy(task.state_dict())
    seen = program.fit(task, program.make_batches(4))
    assert all(map(math.isfinite, seen.losses))
    after = task.state_dict()
    moved = {name for name, x in after.items() if not torch.equal(x, before[name])}
    assert not any("feature_extractor" in name or "pos_conv" in name for name in moved)
    for name in (
        "encoder.cls_token",
        "encoder.feature_projection.projection.weight",
        "encoder.encoder.layers.1.attention.q_proj.weight",
        "head.layers.0.weight",
        "teacher.module.layers.1.attention.q_proj.weight",
        "teacher.module.head.layers.0.weight",
        "center.center",
    ):
        assert name in moved
    # one more step of a decay of 0.5 lies half way
    ours, theirs = after["teacher.module.head.layers.0.weight"], after["head.layers.0.weight"]
    expected = (ours + theirs) / 2
    task.teacher.update(task._followed())
    torch.testing.assert_close(task.teacher.module["head"].layers[0].weight, expected)


def test_the_averaged_encoder_has_the_layers_of_the_teacher_and_shares_nothing_with_the_student(
    program, make_task
):
    task = make_task()
    program.fit(task, program.make_batches(2))
    weights = task.averaged_encoder().state_dict()
    teacher = task.teacher.module["layers"].state_dict()
    for name, x in task.encoder.state_dict().items():
        _, found, layer = name.partition("encoder.layers.")
        assert torch.equal(weights[name], teacher[layer] if found else x), name
    student = {x.data_ptr() for x in task.encoder.state_dict().values()}
    assert not student & {x.data_ptr() for x in weights.values()}


def test_every_trained_weight_gets_a_gradient(program, make_task):
    task = make_task()
    batch = program.make_batches(1)[0]
    student, teacher = task._logits(batch, "train")
    assert not teacher.requires_grad
    task._loss(student, teacher, task.center.update(teacher)).sum().backward()
    without = [n for n, p in task.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_the_same_clip_gives_the_same_views_in_any_batch(program, make_task):
    task = make_task().eval()
    batch = program.make_batches(1, seed=2)[0]
    whole = task._logits(batch, "train")[0]
    for row in range(len(batch)):
        length = int(batch.lengths[row])
        alone = type(batch)(
            waveforms=batch.waveforms[row : row + 1, :length],
            lengths=batch.lengths[row : row + 1],
            domains=batch.domains[row : row + 1],
            sample_index=batch.sample_index[row : row + 1],
            ids=batch.ids[row : row + 1],
        )
        torch.testing.assert_close(
            task._logits(alone, "train")[0][0], whole[row], atol=1e-4, rtol=1e-4
        )


def test_resumed_state_gives_the_same_step(program, make_task):
    first, second = make_task(), make_task()
    batches = program.make_batches(3)
    program.fit(first, batches[:2], steps=2)
    second.load_state_dict(first.state_dict())
    for task in (first, second):
        task.begin_step(batches[2])
        task._logged = task._logits(batches[2], "train")
    for ours, theirs in zip(first._logged, second._logged, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(first.center.center, second.center.center)
    assert bool(second.center.started)


def test_arguments_out_of_range(make_task):
    with pytest.raises(ValueError, match=r"fresh_layers=3: choose 0 \.\. 2"):
        make_task(fresh_layers=3)
    with pytest.raises(ValueError, match="teacher_temperature=0"):
        make_task(teacher_temperature=0)
    with pytest.raises(ValueError, match="decay is 2"):
        make_task(ema_decay=2.0)
