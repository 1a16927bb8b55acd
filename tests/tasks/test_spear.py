"""One objective, however it is computed: ranks, accumulation, stored tokens, probes beside it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from ssl_audio import audio
from ssl_audio.batch import AudioBatch, Tokens
from ssl_audio.models.spectral import LogSpectrumEncoder, MfccEncoder
from ssl_audio.probes.callback import OnlineProbes
from ssl_audio.probes.suite import SPLITS, Example, ProbeClip, ProbeSuite, ProbeTask
from ssl_audio.tasks.spear import TokenSpec
from ssl_audio.tokenizers import MultiCodebookQuantizer
from ssl_audio.tokenizers.teacher_tokens import MVQTokenizer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def joined(batches: list[AudioBatch]) -> AudioBatch:
    """One batch of all clips."""
    return AudioBatch(
        waveforms=_padded([batch.waveforms for batch in batches]),
        lengths=torch.cat([batch.lengths for batch in batches]),
        domains=torch.cat([batch.domains for batch in batches]),
        sample_index=torch.cat([batch.sample_index for batch in batches]),
        ids=tuple(name for batch in batches for name in batch.ids),
        codes={
            teacher: Tokens(
                _padded([batch.codes[teacher].codes for batch in batches]),
                torch.cat([batch.codes[teacher].lengths for batch in batches]),
            )
            for teacher in batches[0].codes
        },
    )


def _padded(tensors: list[torch.Tensor]) -> torch.Tensor:
    rows = [row for tensor in tensors for row in tensor]
    value = 0 if rows[0].is_floating_point() else -100
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def assert_same(ours, theirs, atol=1e-6):
    for mine, yours in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, yours, rtol=1e-5, atol=atol)


@pytest.fixture(scope="module")
def single(program):
    """One rank, every global batch in one piece: losses and parameters."""
    batches = program.make_batches(2 * program.STEPS)
    pieces = [joined(batches[i : i + 2]) for i in range(0, len(batches), 2)]
    return program.fit(program.make_task(batch_sec=2.0), pieces)


def test_accumulation_changes_nothing(program, single):
    batches = program.make_batches(2 * program.STEPS)
    counts = [int(batch.lengths.sum()) for batch in batches]
    assert len(set(counts)) == len(counts)
    accumulated = program.fit(program.make_task(), batches, accumulate=2)
    assert_same(accumulated.parameters[-1], single.parameters[-1])
    sums = np.array(accumulated.losses).reshape(-1, 2).sum(1)
    np.testing.assert_allclose(sums, single.losses, rtol=1e-5)
    moved = [(a - b).abs().max() for a, b in zip(*single.parameters[::3], strict=True)]
    assert max(moved) > 1e-2  # ten thousand times the tolerance


@pytest.mark.ddp
def test_the_number_of_ranks_changes_nothing(program, single, two_ranks):
    for rank in two_ranks:
        assert_same(rank["plain"], single.parameters[-1])
    assert all(map(torch.equal, two_ranks[0]["plain"], two_ranks[1]["plain"]))


@pytest.mark.ddp
def test_ranks_with_accumulation_are_one_rank_with_more(program, two_ranks):
    batches = program.make_batches(4 * program.STEPS)
    alone = program.fit(program.make_task(), batches, accumulate=4)
    assert_same(two_ranks[0]["accumulated"], alone.parameters[-1])


def tokenizer(teacher, seed):
    torch.manual_seed(seed)
    quantizer = MultiCodebookQuantizer(teacher.embed_dim, 2, 16)
    return MVQTokenizer(teacher, quantizer, layer=-1)


def test_online_and_stored_tokens_give_the_same_losses(program):
    tokenizers = {
        "speech": tokenizer(MfccEncoder(8, 4, context=(0,)), 1),
        "audio": tokenizer(LogSpectrumEncoder(8, num_cqt_bins=0, context=(0,)), 2),
    }
    batches = program.make_batches(program.STEPS)
    stored = []
    for batch in batches:
        codes = {}
        for name, teacher in tokenizers.items():  # each clip alone, as no batch of training has it
            alone = [
                teacher.encode(row[None, :length])
                for row, length in zip(batch.waveforms, batch.lengths, strict=True)
            ]
            codes[name] = Tokens(
                _padded([tokens.codes for tokens in alone]),
                torch.cat([tokens.lengths for tokens in alone]),
            )
        stored.append(replace(batch, codes=codes))
    mixing = {"prob": 0.5, "snr_db": (-5.0, 5.0)}
    settings = {"token_mixing": mixing, "regularize": True}
    with_teachers = program.make_task(tokenizers=tokenizers, **settings)
    online = program.fit(with_teachers, [replace(batch, codes={}) for batch in batches])
    offline = program.fit(program.make_task(**settings), stored)
    assert online.losses == offline.losses
    assert not any("teacher" in name for name, _ in with_teachers.named_parameters())


def noise_suite() -> ProbeSuite:
    """Two classes of noise, 6 clips in each split."""
    rng = np.random.default_rng(0)
    clips, examples = {}, {}
    for split in SPLITS:
        names = [f"{split}{i}" for i in range(6)]
        for i, name in enumerate(names):
            samples = rng.normal(0, (0.01, 0.3)[i % 2], 4800).astype(np.float32)
            clips[name] = ProbeClip(name, audio.encode(samples, 16_000, "WAV"), 0.3)
        examples[split] = tuple(Example(name, "ab"[i % 2]) for i, name in enumerate(names))
    return ProbeSuite("noise", clips, (ProbeTask("class", "clip", examples),))


def test_probing_does_not_change_the_training(program, tmp_path):
    batches = program.make_batches(program.STEPS)
    mixing = {"prob": 0.5, "snr_db": (-5.0, 5.0)}

    def fit(*callbacks):
        task = program.make_task(regularize=True, token_mixing=mixing)
        return program.fit(task, batches, callbacks=callbacks)

    plain = fit()
    probes = OnlineProbes(noise_suite(), every_n_steps=1, path=tmp_path / "probes.json")
    probed = fit(probes)
    assert [entry["step"] for entry in probes.state_dict()["history"]] == [1, 2, 3, 4]
    assert probes.state_dict()["warnings"] == []
    assert probed.losses == plain.losses
    assert all(map(torch.equal, probed.parameters[-1], plain.parameters[-1]))


def test_bf16_stays_finite(program):
    task = program.make_task(regularize=True)
    seen = program.fit(task, program.make_batches(8), steps=8, precision="bf16-mixed")
    assert all(map(math.isfinite, seen.losses))
    assert all(parameter.isfinite().all() for parameter in task.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in task.parameters())


def test_fp16_says_once_that_it_looks_for_a_loss_scale(program):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22)
    messages, task = program.Messages(), program.make_task(regularize=True)
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    seen = program.fit(task, program.make_batches(16), steps=16, plugins=[precision])
    changed = [
        any(not torch.equal(x, y) for x, y in zip(before, after, strict=True))
        for before, after in pairwise(seen.parameters)
    ]
    skipped = changed.index(True)
    assert skipped > 2
    assert all(changed[skipped:])
    assert scaler.get_scale() == 2.0 ** (22 - skipped - 1)
    assert len(messages.lines) == 1
    assert "step 0 skipped on all ranks: its gradient overflows in fp16" in messages.lines[0]
    assert f"a loss scale of {2**22:g}, which comes down now" in messages.lines[0]
    assert all(map(math.isfinite, seen.losses))


def test_what_cannot_be_trained_is_refused(program):
    too_fast = {"speech": TokenSpec(2, 16, 31.0)}
    with pytest.raises(ValueError, match="a teacher with another frame rate: 31 Hz codes"):
        program.make_task(tokens=too_fast)
    with pytest.raises(ValueError, match=r"task\.strategy=all with teachers speech, audio: choose"):
        program.make_task(strategy="all")
