"""Tiny fits of both stages: what is learned from, what the teacher does, what is resumed."""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import replace

import pytest
import torch

from ssl_audio.batch import AUDIO, SPEECH, Tokens
from ssl_audio.stages.common import seeded
from ssl_audio.tasks.spear import TokenSpec
from ssl_audio.tasks.sylber import SylberTask

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

STATISTICS = {"signal_mean": 4.0, "signal_var": 0.01, "noise_mean": 3.9, "noise_var": 0.01}
SEGMENTS = {"segments": TokenSpec(1, 3, 50.0)}


@pytest.fixture
def make_task(tiny_hubert):
    def build(stage=2, **changes):
        settings = {
            "ema_decay": 1.0,
            "noise_mixing": {
                "augment_prob": 0.5,
                "utterance_prob": 0.5,
                "shift_range": (0.0, 0.7),
                "gain_range": (0.05, 0.7),
                "max_utterance_gain": 0.2,
            },
            "norm_threshold": None if stage == 1 else {**STATISTICS, "decay": 0.9},
            "merge_threshold": (0.6, 0.9),
            "count_padding": False,
            "alarm_cosine": 0.999999,
            "optimizer": {"lr": 1e-3, "clip_norm": 0.5},
            "schedule": {"warmup_steps": 0, "min_factor": 1.0},
            "seed": 3,
            "max_steps": 4,
        }
        tokens = SEGMENTS if stage == 1 else {}
        with seeded(5):
            return SylberTask(tiny_hubert(), tokens, None, **settings | changes)

    return build


def labelled(batches):
    """The batches with two segments in each clip."""
    found = []
    for batch in batches:
        codes = torch.tensor([0] + [1] * 4 + [2] * 3)[None, :, None].expand(len(batch), -1, 1)
        tokens = Tokens(codes, torch.full((len(batch),), 8))
        found.append(replace(batch, codes={"segments": tokens}))
    return found


def only(batch, domain):
    return replace(batch, domains=torch.full_like(batch.domains, domain))


@pytest.mark.parametrize("stage", [1, 2])
def test_the_loss_falls_and_the_teacher_stands_still(program, make_task, stage):
    task = make_task(stage, optimizer={"lr": 1e-2, "clip_norm": None})
    teacher = copy.deepcopy(task.teacher.state_dict())
    (batch,) = labelled(program.make_batches(1))
    seen = program.fit(task, [only(batch, SPEECH)] * 10, steps=10)
    assert all(map(math.isfinite, seen.losses))
    assert seen.losses[-1] < 0.9 * seen.losses[0]
    assert all(torch.equal(x, teacher[name]) for name, x in task.teacher.state_dict().items())
    assert not any(p.requires_grad for p in task.teacher.parameters())


def test_a_following_teacher_moves_once_per_optimizer_step(program, make_task):
    task = make_task(1, ema_decay=0.5)
    before = copy.deepcopy(task.teacher.module.encoder.layer_norm.weight)
    start = task.encoder.encoder.layer_norm.weight.detach().clone()
    program.fit(task, labelled(program.make_batches(2)), accumulate=2, steps=1)
    end = task.encoder.encoder.layer_norm.weight.detach()
    assert not torch.equal(start, end)
    expected = 0.5 * before + 0.5 * end
    torch.testing.assert_close(task.teacher.module.encoder.layer_norm.weight, expected)


def test_accumulation_changes_nothing(program, make_task, tiny_hubert):
    still = dict.fromkeys(
        ("hidden_dropout", "attention_dropout", "activation_dropout", "layerdrop"), 0.0
    )

    def fit(batches, **options):
        task = make_task(1)
        task.encoder = tiny_hubert(**still)
        task.encoder.masked_spec_embed.requires_grad_(False)
        task.mixing = replace(task.mixing, augment_prob=0.0)
        before = [p.detach().clone() for p in task.parameters()]
        after = program.fit(task, batches, **options).parameters[-1]
        assert max((x - y).abs().max() for x, y in zip(before, after, strict=True)) > 5e-4
        return after

    (first, second) = (only(batch, SPEECH) for batch in labelled(program.make_batches(2)))
    waves = torch.nn.utils.rnn.pad_sequence([*first.waveforms, *second.waveforms], batch_first=True)
    joined = replace(
        first,
        waveforms=waves,
        lengths=torch.cat([first.lengths, second.lengths]),
        domains=torch.cat([first.domains, second.domains]),
        sample_index=torch.cat([first.sample_index, second.sample_index]),
        ids=first.ids + second.ids,
        codes={
            "segments": Tokens(
                torch.cat([x.codes["segments"].codes for x in (first, second)]),
                torch.cat([x.codes["segments"].lengths for x in (first, second)]),
            )
        },
    )
    whole = fit([joined], steps=1)
    parts = fit([first, second], accumulate=2, steps=1)
    for ours, theirs in zip(parts, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_general_audio_is_noise_and_nothing_else(program, make_task):
    batch = program.make_batches(1)[0]
    batch = replace(batch, domains=torch.tensor([AUDIO] + [SPEECH] * (len(batch) - 1)))
    task = make_task()
    step, rows = task._step(batch, "train")
    assert rows == list(range(1, len(batch)))
    assert len(step.student) == len(rows)
    louder = batch.waveforms.clone()
    louder[0] = louder[0].flip(0)
    task.mixing = replace(task.mixing, augment_prob=1.0, utterance_prob=0.0)
    clean, _ = task.encoder.features(batch.waveforms[rows], batch.lengths[rows])
    index = batch.sample_index[rows]
    ours = task._mixed(clean, batch, index, "train")
    theirs = task._mixed(clean, replace(batch, waveforms=louder), index, "train")
    assert not torch.equal(ours, theirs)
    assert (ours - clean).abs().amax(1).min() > 0


def test_a_batch_without_speech_counts_nothing(program, make_task):
    task = make_task()
    batches = [only(batch, AUDIO) for batch in program.make_batches(2)]
    before = [p.detach().clone() for p in task.encoder.parameters()]
    seen = program.fit(task, batches, steps=2)
    assert seen.losses == [0.0, 0.0]
    statistics = {name: getattr(task.norm_threshold, name).item() for name in STATISTICS}
    assert statistics == pytest.approx(STATISTICS)
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.encoder.parameters())
    # AdamW's weight decay is all that moves them
    for ours, theirs in zip(task.encoder.parameters(), before, strict=True):
        assert (ours - theirs).abs().max() < 1e-4


def test_padding_is_no_silence(program, make_task):
    batch = only(program.make_batches(1)[0], SPEECH)
    task = make_task().eval()
    step, _ = task._step(batch, "valid")
    wide = replace(batch, waveforms=torch.nn.functional.pad(batch.waveforms, (0, 3000)))
    task.mixing = replace(task.mixing, augment_prob=0.0)
    narrow, padded = task._step(batch, "valid")[0], task._step(wide, "valid")[0]
    assert narrow.loss.num_frames == padded.loss.num_frames == step.counted.sum()
    torch.testing.assert_close(narrow.loss.total, padded.loss.total, rtol=1e-4, atol=1e-4)
    task.count_padding = True
    assert task._step(wide, "valid")[0].loss.num_frames > narrow.loss.num_frames


def test_a_collapse_is_reported(program, make_task, caplog):
    with caplog.at_level(logging.WARNING, logger="ssl_audio.tasks.sylber"):
        program.fit(make_task(1, alarm_cosine=-1.0), labelled(program.make_batches(1)), steps=1)
    (record,) = caplog.records
    assert "mean pairwise cosine" in record.getMessage()


def test_teacher_and_statistics_are_in_the_checkpoint(program, make_task):
    task = make_task(ema_decay=0.9)
    program.fit(task, [only(b, SPEECH) for b in program.make_batches(2)], steps=2)
    fresh = make_task(ema_decay=0.9)
    fresh.load_state_dict(task.state_dict())
    assert torch.equal(fresh.norm_threshold(), task.norm_threshold())
    for ours, theirs in zip(fresh.teacher.parameters(), task.teacher.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(
        task.teacher.module.feature_projection.projection.weight,
        task.encoder.feature_projection.projection.weight,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": 1, "norm_threshold": 2.6}, "needs either codes named 'segments'"),
        ({"norm_threshold": None}, "needs either codes named 'segments'"),
        ({"merge_threshold": (0.9, 0.8)}, "a range of cosines"),
        ({"schedule": {"warmup_steps": -1}}, "needs warmup_steps >= 0"),
        ({"noise_mixing": {"augment_prob": 2.0}}, "noise_mixing"),
    ],
)
def test_what_cannot_be_trained_is_refused(make_task, changes, message):
    if "noise_mixing" in changes:
        complete = {
            "utterance_prob": 0.5,
            "shift_range": (0.0, 0.7),
            "gain_range": (0.05, 0.7),
            "max_utterance_gain": 0.2,
        }
        changes = {"noise_mixing": complete | changes["noise_mixing"]}
    with pytest.raises(ValueError, match=message):
        make_task(**changes)
