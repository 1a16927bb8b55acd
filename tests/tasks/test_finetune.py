"""Fine-tuning: every layer is reached at its own rate, scores over all clips, both objectives."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from ssl_audio import audio
from ssl_audio.data.labelled_datamodule import LabelledDataModule
from ssl_audio.data.labelled_source import LabelledSource
from ssl_audio.models import BeatsEncoder
from ssl_audio.models.spectral import MfccEncoder
from ssl_audio.stages.common import seeded
from ssl_audio.stages.finetune import trainable, with_classifier
from ssl_audio.tasks.finetune import FinetuneTask

pytestmark = pytest.mark.filterwarnings("ignore")
RATE_HZ = 16_000
LABELS = ("high", "low", "noise")


@pytest.fixture(scope="module")
def parts():
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("beats_parts.py"))))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A task that anything can learn: tones of two pitches, noise."""
    home = tmp_path_factory.mktemp("labelled")
    folder = home / "probes" / "toy"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    time_sec = np.arange(4000) / RATE_HZ
    for split, count in (("train", 12), ("valid", 6), ("test", 6)):
        rows = ["path,label"]
        for number in range(count):
            label = LABELS[number % 3]
            signal = rng.normal(0, 0.3 if label == "noise" else 0.001, 4000)
            if label != "noise":
                signal += 0.3 * np.sin(2 * np.pi * {"low": 300, "high": 3000}[label] * time_sec)
            audio.write(folder / f"{split}{number}.wav", signal.astype(np.float32), RATE_HZ)
            rows.append(f"probes/toy/{split}{number}.wav,{label}")
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return home


def data_of(root):
    source = LabelledSource(root, "toy", max_sec=1.0)
    return LabelledDataModule(source, batch_size=6, balanced=True, batch_sec=1.0, max_sec=1.0)


def make_task(parts, encoder=None, **changes):
    settings = {
        "objective": "single_label",
        "dropout": 0.0,
        "label_smoothing": 0.1,
        "mixup": None,
        "spec_augment": None,
        "layer_decay": 0.5,
        **parts.COMMON,
    }
    with seeded(6):
        return FinetuneTask(encoder or parts.make_encoder(), LABELS, **settings | changes)


def fit(task, data, steps):
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        val_check_interval=steps,
        check_val_every_n_epoch=None,
    )
    trainer.fit(task, data)
    return trainer


def test_every_parameter_has_the_rate_of_its_depth(parts):
    encoder = parts.make_encoder(encoder_layers=3)
    task = make_task(parts, encoder)
    rate = {
        id(parameter): group["lr"]
        for group in task.parameter_groups()
        for parameter in group["params"]
    }
    assert rate.keys() == {id(parameter) for parameter in task.parameters()}
    top = parts.OPTIMIZER["lr"]
    assert {rate[id(p)] for p in task.head.parameters()} == {top}
    for depth in range(3):
        (found,) = {rate[id(p)] for p in encoder.encoder.layers[depth].parameters()}
        assert found == pytest.approx(top * 0.5 ** (2 - depth))
    assert rate[id(encoder.patch_embedding.weight)] == pytest.approx(top * 0.5**3)


def test_a_step_reaches_every_layer(parts, root):
    task = make_task(parts, parts.make_encoder(encoder_layers=3))
    before = {name: x.detach().clone() for name, x in task.named_parameters()}
    fit(task, data_of(root), steps=1)
    moved = {name: float((x - before[name]).abs().max()) for name, x in task.named_parameters()}
    for part in ("patch_embedding", "post_extract_proj", "encoder.pos_conv", "head"):
        assert max(x for name, x in moved.items() if part in name) > 1e-5, part
    steps = [
        max(x for name, x in moved.items() if f"encoder.layers.{i}." in name) for i in range(3)
    ]
    assert all(step > 1e-5 for step in steps)
    assert steps == sorted(steps)


@pytest.mark.parametrize("objective", ["single_label", "multi_label"])
def test_it_learns_and_every_test_clip_is_scored_once(parts, root, objective):
    mixup = {"prob": 0.5, "alpha": 0.8} if objective == "multi_label" else None
    masks = {"time_masks": 1, "max_time_share": 0.1, "channel_masks": 1, "max_channels": 8}
    task = make_task(parts, objective=objective, mixup=mixup, spec_augment=masks, layer_decay=1.0)
    data = data_of(root)
    trainer = fit(task, data, steps=12)
    assert trainer.callback_metrics["valid/score"] > 0.8
    (scores,) = trainer.test(task, data, verbose=False)
    assert scores["test/score"] == scores[f"test/{task.metric}"] > 0.8
    assert sorted(int(i) for index, _, _ in task._scores for i in index) == list(range(18, 24))


def test_other_encoders_are_fine_tuned_too(parts, root):
    task = make_task(parts, MfccEncoder(8, 4, context=(0,)), layer_decay=1.0)
    fit(task, data_of(root), steps=2)
    with pytest.raises(ValueError, match="encoder of kind mfcc does not tell its layers apart"):
        make_task(parts, MfccEncoder(8, 4, context=(0,)))


def test_the_export_of_a_beats_encoder_classifies(parts):
    task = make_task(parts, dropout=0.2).eval()
    encoder = with_classifier(task).eval()
    assert encoder.settings.labels == LABELS
    batch = parts.make_batches(1)[0]
    with torch.no_grad():
        logits = task._logits(*task.encoder.features(batch.waveforms, batch.lengths))
        found = encoder.probabilities(batch.waveforms, batch.lengths)
    torch.testing.assert_close(found, logits.sigmoid())


def test_a_fine_tuned_encoder_is_trained_again_without_its_classifier(parts):
    source = parts.make_encoder(finetuned_model=True, predictor_class=4)
    encoder = trainable(source.requires_grad_(False), {"dropout": 0.3, "encoder_layerdrop": 0.1})
    assert isinstance(encoder, BeatsEncoder)
    assert encoder.predictor is None
    assert (encoder.settings.dropout, encoder.settings.encoder_layerdrop) == (0.3, 0.1)
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    torch.testing.assert_close(encoder.patch_embedding.weight, source.patch_embedding.weight)
    with pytest.raises(ValueError, match="unknown BEATs config keys"):
        trainable(source, {"droput": 0.1})


def test_an_unknown_objective_is_refused(parts):
    with pytest.raises(ValueError, match=r"task\.objective=both: choose one of single_label"):
        make_task(parts, objective="both")
