"""Masked prediction of units: what is predicted, from what, and that it is learned."""

from __future__ import annotations

import math

import pytest
import torch

from ssl_audio.models.spectral import LogSpectrumEncoder
from ssl_audio.tasks.hubert import UnitHead
from ssl_audio.tasks.spear import TokenSpec
from ssl_audio.tokenizers.kmeans import KMeansTokenizer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def make_task(hubert_parts):
    return hubert_parts.hubert_task


@pytest.fixture
def batch(program, hubert_parts):
    return hubert_parts.one_codebook(program.make_batches(1)[0])


def test_the_units_of_a_batch_are_learned(program, make_task, batch):
    task = make_task(feature_penalty=0.0)
    seen = program.fit(task, [batch] * 30, steps=30)
    assert all(map(math.isfinite, seen.losses))
    assert min(seen.losses[-5:]) < 0.8 * seen.losses[0]


def test_only_masked_frames_are_predicted(make_task, batch):
    task = make_task().eval()
    loss, _, units = task._predict(batch, "train")
    mask = task._mask(batch, units.shape[1], "train")
    target = units[..., 0] >= 0
    assert loss.masked.num_frames == (mask & target).sum() > 0
    assert loss.unmasked.num_frames == (~mask & target).sum() > 0
    frames = task.encoder.num_frames(batch.lengths)
    assert (target.sum(1) <= frames).all()


def test_every_weight_gets_a_gradient_the_convolutions_a_smaller_one(make_task, batch):
    gradients = []
    for conv_gradient in (1.0, 0.1):
        task = make_task(conv_gradient=conv_gradient).eval()
        loss, *_ = task._predict(batch, "train")
        loss.masked.loss.backward()
        assert all(p.grad is not None for p in task.parameters())
        gradients.append(task.encoder.feature_extractor.conv_layers[0].conv.weight.grad)
    torch.testing.assert_close(gradients[1], 0.1 * gradients[0], rtol=1e-3, atol=1e-6)


def test_online_units(program, make_task):
    teacher = LogSpectrumEncoder(8, num_cqt_bins=0, context=(0,))
    torch.manual_seed(0)
    tokenizer = KMeansTokenizer(teacher, torch.randn(6, teacher.embed_dim))
    spec = TokenSpec(1, 6, tokenizer.frame_rate)
    task = make_task({"units": spec}, {"units": tokenizer})
    seen = program.fit(task, program.make_batches(2), steps=2)
    assert all(map(math.isfinite, seen.losses))
    assert not any("teacher" in name for name, _ in task.named_parameters())


@pytest.mark.ddp
@pytest.mark.parametrize("name", ["hubert", "sdhubert", "sylber"])
def test_two_ranks_train_as_one(program, hubert_parts, two_ranks, name):
    """HuBERT, SD-HuBERT with its centre, Sylber with its statistics of norms."""
    alone = hubert_parts.fit_parallel(vars(program))[name]
    ranks = [rank["hubert"][name] for rank in two_ranks]
    sums = [sum(losses) for losses in zip(*(rank["losses"] for rank in ranks), strict=True)]
    assert sums == pytest.approx(alone["losses"], rel=1e-4)
    for part in ("parameters", "state"):
        first, second, whole = (found[part] for found in (*ranks, alone))
        torch.testing.assert_close(first, second, rtol=0, atol=0)
        torch.testing.assert_close(first, whole, rtol=1e-4, atol=1e-5)


def test_unit_head_is_a_scaled_cosine():
    torch.manual_seed(0)
    head = UnitHead(5, 7, 3, 0.1)
    frames = torch.randn(2, 4, 5)
    expected = torch.nn.functional.cosine_similarity(
        head.projection(frames)[..., None, :], head.embedding, dim=-1
    )
    torch.testing.assert_close(head(frames), expected / 0.1)


def test_what_cannot_be_predicted_is_refused(make_task):
    with pytest.raises(ValueError, match="one code"):
        make_task({"speech": TokenSpec(2, 16, 50.0)})
    with pytest.raises(ValueError, match="one code"):
        make_task({"speech": TokenSpec(1, 16, 100.0)})
    with pytest.raises(ValueError, match="units of one tokenizer"):
        make_task({})
