"""The same rows on any number of ranks, float32 throughout, dead rows revived if asked for."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from ssl_audio.batch import IGNORE_CODE
from ssl_audio.tokenizers.ema_codebook import EMACodebook

PROGRAM = Path(__file__).with_name("codebook_program.py")


@pytest.fixture(scope="module")
def program():
    return SimpleNamespace(**runpy.run_path(str(PROGRAM)))


@pytest.mark.ddp
def test_two_ranks_hold_the_rows_of_one_process(program, on_two_ranks, tmp_path):
    on_two_ranks(PROGRAM, tmp_path)
    first, second = (torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(2))
    for revive, state in first.items():
        for name, tensor in state.items():
            assert torch.equal(tensor, second[revive][name]), (revive, name)
        single = program.train([0, 1], revive).state_dict()
        torch.testing.assert_close(state, single, atol=1e-5, rtol=1e-5)


def test_first_rows_are_kmeans_of_the_first_batch():
    codebook = EMACodebook(4, 3)
    centres = functional.normalize(torch.eye(4, 3) + 0.2 * torch.ones(4, 3), dim=1)
    codebook.eval()(centres[None])
    assert not codebook.initialized
    quantized = codebook.train()(7 * centres[None])
    assert codebook.initialized
    assert sorted(quantized.codes[0].tolist()) == [0, 1, 2, 3]
    torch.testing.assert_close(quantized.vectors[0], centres)
    torch.testing.assert_close(quantized.commitment, torch.zeros(1, 4))
    torch.testing.assert_close(codebook.perplexity(), torch.tensor(4.0))


def test_fewer_vectors_than_codes_and_none_at_all():
    codebook = EMACodebook(8, 3)
    x = torch.randn(1, 3, 3)
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    codebook(x, nothing)
    codebook.step(0)
    assert not codebook.initialized
    assert codebook.perplexity() == 1.0
    codebook(x)
    codebook.step(1)
    assert codebook.initialized
    assert codebook.embedding.isfinite().all()
    codebook(x, nothing)
    codebook.step(2)
    assert codebook.embedding.isfinite().all()


def test_padding_takes_no_part(program):
    x, valid = program.micro_batch(0, 0, 0)
    other = torch.where(valid[..., None], x, 50 * torch.randn_like(x))
    results = []
    for values in (x, other):
        codebook = EMACodebook(program.NUM_CODES, program.DIM, seed=1)
        values = values.clone().requires_grad_()
        quantized = codebook(values, valid)
        (quantized.commitment.sum() + quantized.vectors.sum()).backward()
        codebook.step(0)
        assert (quantized.codes[~valid] == IGNORE_CODE).all()
        assert (values.grad[~valid] == 0).all()
        assert (values.grad[valid] != 0).any()
        results.append((*quantized, codebook.embedding, codebook.usage, values.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_precision_around_does_not_matter(program):
    x, valid = program.micro_batch(0, 0, 0)
    expected = EMACodebook(program.NUM_CODES, program.DIM)
    half = EMACodebook(program.NUM_CODES, program.DIM).to(torch.bfloat16)
    assert half.embedding.dtype == half.usage.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        quantized = half(x, valid)
        half.step(0)
    assert quantized.vectors.dtype == torch.float32
    assert torch.equal(quantized.codes, expected(x, valid).codes)
    expected.step(0)
    assert torch.equal(half.embedding, expected.embedding)


def test_sums_that_overflowed_are_dropped(program):
    codebook = program.train([0])
    before = {name: tensor.clone() for name, tensor in codebook.state_dict().items()}
    x, valid = program.micro_batch(0, 0, 0)
    x[0, 0, 0] = float("nan")
    codebook(x, valid)
    codebook.step(9)
    for name, tensor in codebook.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("revive_below", [0.0, 0.2])
def test_dead_rows_come_back_only_if_asked(program, revive_below):
    """Two of the rows point where no data are."""
    torch.manual_seed(0)
    codebook = EMACodebook(program.NUM_CODES, program.DIM, revive_below=revive_below)
    clusters = functional.normalize(torch.randn(program.NUM_CODES, program.DIM).abs(), dim=1)
    codebook.embedding.copy_(clusters)
    codebook.embedding[:2] *= -1
    codebook.initialized.fill_(True)
    for step in range(60):
        codebook(clusters[None] + 0.01 * torch.randn(1, *clusters.shape))
        codebook.step(step)
    dead = (codebook.embedding[:2] < 0).all(1)
    assert dead.all() if revive_below == 0 else not dead.any()
    used = codebook.perplexity().item()
    assert used < 10.01 if revive_below == 0 else used > 10.5


def test_training_goes_on_exactly_from_a_state(program):
    whole = program.train([0], revive_below=0.5)
    codebook = EMACodebook(program.NUM_CODES, program.DIM, decay=0.7, revive_below=0.5, seed=3)
    codebook.load_state_dict(whole.state_dict())
    for copy in (whole, codebook):
        copy(*program.micro_batch(9, 0, 0))
        copy.step(9)
    assert torch.equal(whole.embedding, codebook.embedding)
    assert torch.equal(whole.usage, codebook.usage)


@pytest.mark.parametrize("wrong", [{"num_codes": 0}, {"decay": 1.0}, {"revive_below": 1.0}])
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match="sizes are at least 1"):
        EMACodebook(**{"num_codes": 4, "dim": 2, **wrong})
