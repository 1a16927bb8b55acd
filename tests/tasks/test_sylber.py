"""Tiny fits of both stages: what is learned from, what the teacher does, what is resumed."""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import replace

import pytest
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from ssl_audio.batch import AUDIO, SPEECH, Tokens
from ssl_audio.data.dataset import already_collated
from ssl_audio.tokenizers.norm_threshold import fit_norm_statistics

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def make_task(hubert_parts):
    return hubert_parts.sylber_task


def labelled(batches):
    """The batches with two segments in each clip."""
    found = []
    for batch in batches:
        codes = torch.tensor([0] + [1] * 4 + [2] * 3)[None, :, None].expand(len(batch), -1, 1)
        tokens = Tokens(codes, torch.full((len(batch),), 8))
        found.append(replace(batch, codes={"segments": tokens}))
    return found


@pytest.mark.parametrize("stage", [1, 2])
def test_the_loss_falls_and_the_teacher_stands_still(program, make_task, stage, hubert_parts):
    task = make_task(stage, optimizer={"lr": 1e-2, "clip_norm": None})
    teacher = copy.deepcopy(task.teacher.state_dict())
    (batch,) = labelled(program.make_batches(1))
    seen = program.fit(task, [hubert_parts.only(batch, SPEECH)] * 10, steps=10)
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


def test_accumulation_changes_nothing(program, make_task, hubert_parts):
    def fit(batches, **options):
        task = make_task(1, hubert_parts.tiny_hubert(**hubert_parts.STILL))
        task.mixing = replace(task.mixing, augment_prob=0.0)
        before = [p.detach().clone() for p in task.parameters()]
        after = program.fit(task, batches, **options).parameters[-1]
        assert max((x - y).abs().max() for x, y in zip(before, after, strict=True)) > 5e-4
        return after

    pair = [hubert_parts.only(batch, SPEECH) for batch in labelled(program.make_batches(2))]
    whole = fit([hubert_parts.joined(*pair)], steps=1)
    parts = fit(pair, accumulate=2, steps=1)
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


def test_a_batch_without_speech_counts_nothing(program, make_task, hubert_parts):
    task = make_task()
    batches = [hubert_parts.only(batch, AUDIO) for batch in program.make_batches(2)]
    before = [p.detach().clone() for p in task.encoder.parameters()]
    seen = program.fit(task, batches, steps=2)
    assert seen.losses == [0.0, 0.0]
    statistics = {
        name: getattr(task.norm_threshold, name).item() for name in hubert_parts.STATISTICS
    }
    assert statistics == pytest.approx(hubert_parts.STATISTICS)
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.encoder.parameters())
    # AdamW's weight decay is all that moves them
    for ours, theirs in zip(task.encoder.parameters(), before, strict=True):
        assert (ours - theirs).abs().max() < 1e-4


def test_padding_is_no_silence(program, make_task, hubert_parts):
    batch = hubert_parts.only(program.make_batches(1)[0], SPEECH)
    task = make_task().eval()
    step, _ = task._step(batch, "valid")
    wide = replace(batch, waveforms=torch.nn.functional.pad(batch.waveforms, (0, 3000)))
    task.mixing = replace(task.mixing, augment_prob=0.0)
    narrow, padded = task._step(batch, "valid")[0], task._step(wide, "valid")[0]
    assert narrow.loss.num_frames == padded.loss.num_frames == step.counted.sum()
    torch.testing.assert_close(narrow.loss.total, padded.loss.total, rtol=1e-4, atol=1e-4)
    task.count_padding = True
    assert task._step(wide, "valid")[0].loss.num_frames > narrow.loss.num_frames


def test_statistics_that_are_not_given_are_fitted_when_training_starts(
    program, make_task, hubert_parts
):
    batches = program.make_batches(2)
    encoder = hubert_parts.tiny_hubert()
    torch.nn.init.uniform_(encoder.encoder.layers[-1].final_layer_norm.weight, 0, 2)  # norms differ
    task = make_task(encoder=encoder, norm_threshold={"decay": 1.0})
    assert not task.norm_threshold.is_fitted
    norms = []
    for batch in batches:
        frames = task.teacher.module(batch.waveforms, batch.lengths)
        valid = torch.arange(frames.frames.shape[1]) < frames.lengths[:, None]
        norms.append(frames.frames.norm(dim=-1)[valid])

    class Data(LightningDataModule):
        def train_dataloader(self):
            return DataLoader(batches, batch_size=None, collate_fn=already_collated)

        def iter_batches(self, split, *, domains):
            assert (split, domains) == ("train", ["speech"])
            return iter(batches)

    program.fit(task, Data(), steps=1)
    expected = fit_norm_statistics(torch.cat(norms))
    found = {name: getattr(task.norm_threshold, name).item() for name in expected}
    assert found == pytest.approx(expected, rel=1e-4)
    resumed = make_task(norm_threshold={"decay": 1.0})
    resumed.load_state_dict(task.state_dict())
    assert resumed.norm_threshold.is_fitted


def test_a_collapse_is_reported(program, make_task, caplog):
    with caplog.at_level(logging.WARNING, logger="ssl_audio.tasks.sylber"):
        program.fit(make_task(1, alarm_cosine=-1.0), labelled(program.make_batches(1)), steps=1)
    (record,) = caplog.records
    assert "mean pairwise cosine" in record.getMessage()


def test_teacher_and_statistics_are_in_the_checkpoint(program, make_task, hubert_parts):
    task = make_task(ema_decay=0.9)
    program.fit(task, [hubert_parts.only(b, SPEECH) for b in program.make_batches(2)], steps=2)
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
def test_what_cannot_be_trained_is_refused(make_task, changes, message, hubert_parts):
    if "noise_mixing" in changes:
        changes = {"noise_mixing": hubert_parts.SYLBER["noise_mixing"] | changes["noise_mixing"]}
    with pytest.raises(ValueError, match=message):
        make_task(**changes)
