"""BEATs' objective: what the encoder sees, what is summed, and that it trains."""

from __future__ import annotations

import math
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.plugins import MixedPrecision
from omegaconf import OmegaConf

from ssl_audio import hub
from ssl_audio.config import CONFIG_DIR, construct, register_resolvers
from ssl_audio.stages.common import seeded
from ssl_audio.tasks.spear import TokenSpec

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def parts():
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("beats_parts.py"))))


def test_without_a_mask_the_encoder_sees_the_whole_clip_at_its_places(parts):
    batch = parts.make_batches(1)[0]
    for positions in ("compact", "original"):
        task = parts.make_task(mask_ratio=0.0, positions=positions).eval()
        seen = []
        task.predictor.register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append(inputs[0])
        )
        with torch.no_grad():
            assert task._predict(batch, "valid").losses.numel() == 0
            whole = task.encoder(batch.waveforms, batch.lengths)
        for row, want, count in zip(seen[0], whole.frames, whole.lengths, strict=True):
            torch.testing.assert_close(row[:count], want[:count], atol=1e-5, rtol=1e-4)


def test_hidden_patches_do_not_reach_the_encoder(parts):
    batch = parts.make_batches(1, seconds=(1.0, 1.1))[0]
    task = parts.make_task(mask_ratio=0.5).eval()
    outputs = []
    task.encoder.encoder.register_forward_hook(lambda _m, _i, out: outputs.append(out[-1]))
    patchify = task.encoder.patchify
    with torch.no_grad():
        prediction = task._predict(batch, "train")

        def disturbed(*arguments):
            patches, lengths = patchify(*arguments)
            noise = torch.randn_like(patches)
            return torch.where(prediction.mask.visible[..., None], patches, noise), lengths

        task.encoder.patchify = disturbed
        again = task._predict(batch, "train")
    torch.testing.assert_close(outputs[0], outputs[1])
    torch.testing.assert_close(prediction.losses, again.losses)


def test_the_loss_is_a_sum_over_hidden_patches_with_a_code(parts):
    batch = parts.make_batches(1)[0]
    task = parts.make_task().eval()
    with torch.no_grad():
        prediction = task._predict(batch, "train")
        assert (prediction.targets >= 0).all()
        valid = task.encoder.num_frames(batch.lengths)
        hidden = valid - (valid * 0.25).round().long()
        assert len(prediction.losses) == int(hidden.sum())
        fewer = batch.codes["labels"]
        codes = fewer.codes.clone()
        codes[1] = -100
        unlabelled = replace(batch, codes={"labels": replace(fewer, codes=codes)})
        losses = task._predict(unlabelled, "train").losses
    first = int(hidden[0])
    torch.testing.assert_close(losses[:first], prediction.losses[:first])
    assert not losses[first : first + int(hidden[1])].any()


def test_online_and_stored_labels_give_the_same_losses(program, parts):
    stored = program.fit(parts.make_task(), parts.make_batches(parts.STEPS), steps=parts.STEPS)
    task = parts.make_task(tokenizers={"labels": parts.make_tokenizer()})
    batches = parts.make_batches(parts.STEPS, with_codes=False)
    online = program.fit(task, batches, steps=parts.STEPS)
    assert online.losses == stored.losses
    assert not any("tokenizer" in name for name in task.state_dict())


def test_it_learns(program, parts):
    batch = parts.make_batches(1)[0]
    task = parts.make_task(placeholder="learned", positions="original", label_smoothing=0.1)
    losses = program.fit(task, [batch] * 12, steps=12).losses
    assert losses[-1] < 0.95 * losses[0]


@pytest.fixture(scope="module")
def demo():
    """``model`` and ``task`` of ``scale=demo``."""
    register_resolvers()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("train", ["experiment=beats"])
    return OmegaConf.to_container(config, resolve=True)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_trains_200_steps_of_the_demo_configuration(program, parts, demo, dtype):
    with seeded(1):
        task = construct(
            demo["task"],
            "task",
            encoder=hub.build(demo["model"]),
            tokens={"labels": TokenSpec(1, parts.NUM_CODES, 50.0)},
            tokenizers=None,
            seed=0,
        )
    start = [parameter.detach().clone() for parameter in task.parameters()]
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1.0))
    precision = {"precision": "bf16-mixed"} if dtype == "bf16" else {"plugins": [plugin]}
    batches = parts.make_batches(10, seconds=(0.3, 0.4)) * 20
    seen = program.fit(task, batches, steps=200, every_step=False, **precision)
    assert len(seen.losses) == 200
    assert all(map(math.isfinite, seen.losses))
    assert np.mean(seen.losses[-20:]) < 0.9 * np.mean(seen.losses[:20])
    for before, after in zip(start, task.parameters(), strict=True):
        assert after.isfinite().all()
        assert not torch.equal(before, after)


def test_a_batch_of_nothing_but_padding_trains_nothing_and_is_finite(parts):
    batch = parts.make_batches(1, seconds=(0.05, 0.06))[0]  # no clip lasts a patch
    task = parts.make_task()
    prediction = task._predict(batch, "train")
    assert prediction.losses.numel() == 0
    prediction.losses.sum().backward()
    frames = task.encoder(batch.waveforms, batch.lengths)
    assert frames.lengths.tolist() == [0] * len(batch)
    assert frames.frames.isfinite().all()


def test_pictures_show_the_hidden_patches_by_time_and_frequency(parts):
    task = parts.make_task().eval()
    with torch.no_grad():
        prediction = task._predict(parts.make_batches(1)[0], "valid")
    figures = task._first_clip(prediction)
    codes, predicted = figures["codes"]["labels"], figures["predicted"]["labels"]
    assert codes.shape[1] == 8
    assert torch.equal(codes == -100, predicted == -100)
    first = prediction.mask.masked < prediction.codes.shape[1]
    assert int((codes != -100).sum()) == int(first.sum())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "both"}, r"task\.positions=both: choose one of compact, original"),
        ({"placeholder": "one"}, r"task\.placeholder=one: choose one of zero, learned"),
        ({"predictor_dim": 7}, r"task\.predictor_dim=7, .*: BEATs config: 2 heads must divide"),
        ({"mask_ratio": 1.0}, r"task\.mask_ratio=1\.0: choose a share in"),
    ],
)
def test_options_that_cannot_be_are_refused(parts, changes, message):
    with pytest.raises(ValueError, match=message):
        parts.make_task(**changes)


def test_encoders_and_labels_that_do_not_fit_are_refused(parts):
    with pytest.raises(ValueError, match="trains kind=beats with padding=exact"):
        parts.make_task(encoder=parts.make_encoder(padding="reference"))
    task = parts.make_task()
    for spec in (TokenSpec(2, 16, 50.0), TokenSpec(1, 16, 25.0)):
        with pytest.raises(ValueError, match="one codebook at the encoder's 50 patches a second"):
            type(task)(
                parts.make_encoder(),
                {"labels": spec},
                None,
                mask_ratio=0.75,
                placeholder="zero",
                positions="compact",
                label_smoothing=0.0,
                predictor_layers=1,
                predictor_dim=8,
                **parts.COMMON,
            )
