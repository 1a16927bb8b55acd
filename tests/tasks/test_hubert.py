"""Masked prediction of units: what is predicted, from what, and that it is learned."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ssl_audio.models.spectral import LogSpectrumEncoder
from ssl_audio.stages.common import seeded
from ssl_audio.tasks.hubert import HubertTask, UnitHead
from ssl_audio.tasks.spear import TokenSpec
from ssl_audio.tokenizers.kmeans import KMeansTokenizer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def make_task(tiny_hubert):
    def build(tokens=None, tokenizers=None, **changes):
        settings = {
            "time_mask": {"prob": 0.5, "span": 4, "min_masks": 1},
            "projection_dim": 8,
            "temperature": 0.1,
            "unmasked_weight": 0.0,
            "feature_penalty": 10.0,
            "conv_gradient": 0.1,
            "optimizer": {"lr": 1e-2, "clip_norm": 10.0},
            "schedule": {"warmup_steps": 0},
            "seed": 3,
            "max_steps": 30,
        }
        tokens = {"speech": TokenSpec(1, 16, 50.0)} if tokens is None else tokens
        with seeded(5):
            return HubertTask(tiny_hubert(), tokens, tokenizers, **settings | changes)

    return build


def one_codebook(batch):
    tokens = batch.codes["speech"]
    return replace(batch, codes={"speech": replace(tokens, codes=tokens.codes[..., :1])})


def test_the_units_of_a_batch_are_learned(program, make_task):
    batch = one_codebook(program.make_batches(1)[0])
    task = make_task(feature_penalty=0.0)
    seen = program.fit(task, [batch] * 30, steps=30)
    assert all(map(math.isfinite, seen.losses))
    assert min(seen.losses[-5:]) < 0.8 * seen.losses[0]


def test_only_masked_frames_are_predicted(program, make_task):
    batch = one_codebook(program.make_batches(1)[0])
    task = make_task().eval()
    loss, _, units = task._predict(batch, "train")
    mask = task._mask(batch, units.shape[1], "train")
    target = units[..., 0] >= 0
    assert loss.masked.num_frames == (mask & target).sum() > 0
    assert loss.unmasked.num_frames == (~mask & target).sum() > 0
    frames = task.encoder.num_frames(batch.lengths)
    assert (target.sum(1) <= frames).all()


def test_every_weight_gets_a_gradient_the_convolutions_a_smaller_one(program, make_task):
    batch = one_codebook(program.make_batches(1)[0])
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
