"""Training here is as sensitive as it gets: dropout, batch norm, shuffling from the global RNG."""

from __future__ import annotations

import json
import random
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from ssl_audio.models.ema import EMA
from ssl_audio.probes import callback, heads
from ssl_audio.probes.boundary_task import boundary_task
from ssl_audio.probes.callback import MENU, OnlineProbes, latest_results, probe_scalars
from ssl_audio.probes.sources import untrained_twin
from ssl_audio.report.events import read_logs
from ssl_audio.tokenizers import RandomProjectionTokenizer

pytestmark = pytest.mark.filterwarnings("ignore:.*(num_workers|tensorboardX|val_dataloader).*")


class ToyTask(LightningModule):
    def __init__(self, encoder, random_noise=True):
        super().__init__()
        self.encoder = encoder
        self.random_noise = random_noise
        self.losses: list[float] = []

    def training_step(self, batch, batch_idx):
        noise = random.random() + np.random.rand() if self.random_noise else 0.5  # noqa: NPY002
        out = self.encoder(batch[0] + 0.01 * torch.randn_like(batch[0]))
        loss = (out.frames - noise).square().mean()
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)

    def train_dataloader(self):
        data = torch.utils.data.TensorDataset(torch.linspace(-1, 1, 12 * 3200).view(12, 3200))
        return torch.utils.data.DataLoader(data, batch_size=2, shuffle=True)


@pytest.fixture
def fit(tmp_path, tiny_encoder):
    def run(*callbacks, max_steps=6, seed=0, ckpt_path=None, make_task=ToyTask, **options):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        task = make_task(type(tiny_encoder)())
        options = {"logger": False, "enable_checkpointing": False} | options
        trainer = Trainer(
            accelerator="cpu",
            max_steps=max_steps,
            callbacks=list(callbacks),
            default_root_dir=tmp_path,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
        trainer.fit(task, ckpt_path=ckpt_path)
        return task

    return run


def without_times(record):
    return json.loads(json.dumps(record), object_hook=lambda d: d | {"seconds": 0})


def test_probing_does_not_change_training(fit, tone_suite, quick_heads):
    plain = fit()
    probes = OnlineProbes(
        tone_suite.only(["tone"]), probes=MENU, every_n_steps=4, at_end=False, baselines=()
    )
    probed = fit(probes)
    assert set(probes.results["scores"]["trained"]) == {
        "tone", "tone/knn", "tone/ridge", "tone/superb_linear", "tone/hear_mlp"
    }  # fmt: skip
    assert probed.losses == plain.losses
    expected = plain.encoder.state_dict()
    for name, tensor in probed.encoder.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_results_go_to_json_and_tensorboard(fit, tone_suite, tmp_path):
    probes = OnlineProbes(lambda: tone_suite, every_n_steps=4, path=tmp_path / "out" / "p.json")
    fit(probes, logger=TensorBoardLogger(tmp_path, name="", version=""))
    record = json.loads((tmp_path / "out" / "p.json").read_text())
    assert [entry["step"] for entry in record["history"]] == [4, 6]
    assert set(record["baselines"]) == {"untrained", "log-mel"}
    assert latest_results(record) == probes.results
    assert list(probes.results["scores"]) == ["trained", "untrained", "log-mel"]
    (log,) = read_logs(tmp_path)
    curve = log.scalars["probe/tone/accuracy"]
    assert curve.steps == [4, 6]
    values = [entry["scores"]["tone"]["value"] for entry in record["history"]]
    assert curve.values == pytest.approx(values)
    level = log.scalars["probe/tone/accuracy@log-mel"].values
    assert level == pytest.approx([record["baselines"]["log-mel"]["tone"]["value"]] * 2)


def test_accumulation_probes_once_per_optimizer_step(fit, tone_suite):
    probes = OnlineProbes(tone_suite.only(["tone"]), every_n_steps=1, baselines=())
    fit(probes, max_steps=3, accumulate_grad_batches=2)
    assert [entry["step"] for entry in probes.state_dict()["history"]] == [1, 2, 3]


def test_a_resumed_run_continues_its_history_and_keeps_its_baselines(fit, tone_suite, tmp_path):
    whole = OnlineProbes(tone_suite, every_n_steps=2)
    fit(whole, checkpoint_at(tmp_path, 4), enable_checkpointing=True)
    saved = next((tmp_path / "ckpt").glob("*step=4.ckpt"))
    content = torch.load(saved, weights_only=True)
    assert any("OnlineProbes" in key for key in content["callbacks"])
    resumed = OnlineProbes(tone_suite, every_n_steps=2)
    fit(resumed, seed=9, ckpt_path=saved)
    first, second = without_times(whole.state_dict()), without_times(resumed.state_dict())
    assert second["baselines"] == first["baselines"]
    assert second["history"][:2] == first["history"][:2]
    assert [entry["step"] for entry in second["history"]] == [2, 4, 6]


class SteadyTask(ToyTask):
    """Every step depends on its number alone, as those of our tasks do."""

    def training_step(self, batch, batch_idx):
        torch.manual_seed(self.global_step)
        random.seed(self.global_step)
        np.random.seed(self.global_step)  # noqa: NPY002
        return super().training_step(batch, batch_idx)

    def train_dataloader(self):
        wave = torch.linspace(-1, 1, 3200).expand(12, 3200)
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(wave), batch_size=2)


@pytest.fixture
def edges(tone_suite):
    """The suite with a boundary task: where loud becomes soft."""
    halves = next(task for task in tone_suite.tasks if task.name == "half")
    segments = {split: {} for split in halves.examples}
    for split, examples in halves.examples.items():
        for e in examples:
            segments[split].setdefault(e.clip, []).append((e.start_sec, e.end_sec))
    return replace(tone_suite, tasks=(*tone_suite.tasks, boundary_task("half", segments)))


def test_boundaries_while_training(fit, edges):
    probes = OnlineProbes(edges, every_n_steps=1, baselines=("log-mel",))
    fit(probes, max_steps=1)
    for source in ("trained", "log-mel"):
        score = probes.results["scores"][source]["half_boundaries"]
        assert score["metric"] == "f1_20ms"
        assert 0 < score["value"] <= 1
    scalars = probe_scalars(probes.state_dict()["history"][0], {})
    assert "probe/half_boundaries/f1_20ms" in scalars


def test_a_resumed_run_has_the_same_numbers_and_losses(
    fit, edges, quick_heads, tmp_path, monkeypatch
):
    few = replace(heads.SUPERB_TRAINING, steps=20, eval_every=10)
    monkeypatch.setattr(heads, "SUPERB_TRAINING", few)
    monkeypatch.setattr(heads, "HEAR_SCHEDULE", replace(heads.HEAR_SCHEDULE, max_epochs=3))
    suite = edges.only(["tone", "half_boundaries"])
    whole, resumed = (
        OnlineProbes(suite, probes=MENU, every_n_steps=4, baselines=()) for _ in range(2)
    )
    saving = checkpoint_at(tmp_path, 4)
    task = fit(whole, saving, make_task=SteadyTask, enable_checkpointing=True)
    saved = next((tmp_path / "ckpt").glob("*step=4.ckpt"))
    again = fit(resumed, seed=9, ckpt_path=saved, make_task=SteadyTask)
    assert without_times(resumed.state_dict()) == without_times(whole.state_dict())
    plain = fit(seed=9, ckpt_path=saved, make_task=SteadyTask)
    assert again.losses == plain.losses == task.losses[4:]


def test_a_checkpoint_of_another_suite_is_dropped_with_a_warning(fit, tone_suite, make_suite):
    first = OnlineProbes(tone_suite)
    fit(first, max_steps=1)
    second = OnlineProbes(make_suite((12, 6, 6)))
    second.load_state_dict(first.state_dict())
    with pytest.warns(UserWarning, match="the suite differs from the one in the checkpoint"):
        fit(second, max_steps=1)
    assert len(second.state_dict()["history"]) == 1


def test_an_error_while_probing_is_a_warning(fit, tmp_path):
    def broken():
        raise OSError("disk is gone")

    with pytest.warns(UserWarning, match=r"online probes failed, training goes on.*disk is gone"):
        task = fit(OnlineProbes(broken, every_n_steps=1), max_steps=2)
    assert len(task.losses) == 2


def test_a_dry_run_does_not_probe(fit, tone_suite, tmp_path):
    probes = OnlineProbes(tone_suite, every_n_steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(probes, fast_dev_run=True)
    assert probes.results is None
    assert not (tmp_path / "probes.json").exists()


def test_other_loggers_get_the_same_scalars(fit, tone_suite, tmp_path):
    fit(OnlineProbes(tone_suite, baselines=()), max_steps=1, logger=CSVLogger(tmp_path, "csv"))
    text = next((tmp_path / "csv").rglob("metrics.csv")).read_text()
    assert "probe/loud/accuracy" in text.splitlines()[0]


def test_scalars_hold_means_of_the_first_classifier():
    score = {"metric": "accuracy", "value": 0.5, "grid": {"0": [0.1, 0.3], "1": [0.2, 0.2]}}
    other = {**score, "value": 0.7}
    edges = {**score, "metric": "f1_20ms", "value": 0.9}
    scores = {"a": score, "b": other, "a/knn": {**score, "value": 0.0}, "b_boundaries": edges}
    entry = {"seconds": 2.0, "scores": scores, "rank": {"rank_me": 3.5, "mean_cosine": 0.25}}
    scalars = probe_scalars(entry, {"log-mel": {"a": score}})
    assert scalars["probe/mean"] == pytest.approx(0.6)
    assert scalars["probe/a/accuracy@log-mel"] == scalars["probe/mean@log-mel"] == 0.5
    assert scalars["probe/b_boundaries/f1_20ms"] == 0.9
    assert scalars["probe/a/valid@0"] == 0.3
    assert scalars["probe/rank_me"] == 3.5


def test_slow_probes_take_half_of_the_clips_from_then_on(fit, tone_suite, tmp_path):
    probes = OnlineProbes(tone_suite, every_n_steps=2, max_seconds=0)
    with pytest.warns(UserWarning, match="more than 0 s: from now on 50 % of the clips"):
        fit(probes, checkpoint_at(tmp_path, 4), enable_checkpointing=True)
    record = probes.state_dict()
    assert [entry["clips"] for entry in record["history"]] == [1.0, 0.5, 0.25]
    assert record["share"] == 0.125
    sizes = [entry["scores"]["tone"]["num_train"] for entry in record["history"]]
    assert sizes == [30, 15, 8]
    saved = next((tmp_path / "ckpt").glob("*step=4.ckpt"))
    resumed = OnlineProbes(tone_suite, every_n_steps=2)
    fit(resumed, seed=9, ckpt_path=saved)
    last = resumed.state_dict()["history"][-1]
    assert last["clips"] == 0.25  # as the run that was not interrupted
    assert resumed.results["scores"]["log-mel"]["tone"]["num_train"] == 8  # like with like


def checkpoint_at(tmp_path, step):
    return ModelCheckpoint(tmp_path / "ckpt", every_n_train_steps=step, save_top_k=-1)


def test_clips_per_task(fit, tone_suite):
    probes = OnlineProbes(tone_suite, clips_per_task=9, baselines=())
    fit(probes, max_steps=1)
    score = probes.results["scores"]["trained"]["tone"]
    assert (score["num_train"], score["num_valid"], score["num_test"]) == (9, 9, 9)


class AveragedTask(ToyTask):
    def __init__(self, encoder):
        super().__init__(encoder)
        self.teacher = EMA(encoder, decay=1.0)


def test_the_moving_average_is_probed_on_request(fit, tone_suite):
    student = OnlineProbes(tone_suite, every_n_steps=2, baselines=("untrained",))
    teacher = OnlineProbes(tone_suite, every_n_steps=2, target="ema", baselines=("untrained",))
    fit(student, make_task=AveragedTask)
    fit(teacher, make_task=AveragedTask)
    first, *_, last = (without_times(e["scores"]) for e in teacher.state_dict()["history"])
    assert first == last  # decay 1 freezes it
    first, *_, last = (without_times(e["scores"]) for e in student.state_dict()["history"])
    assert first != last
    with pytest.warns(UserWarning, match="ToyTask keeps no moving average; use target=student"):
        fit(OnlineProbes(tone_suite, target="ema"), max_steps=1)


def test_untrained_is_another_encoder_than_the_one_that_training_begins_with(fit, tone_suite):
    """Which may have been trained before."""
    probes = OnlineProbes(tone_suite.only(["tone"]), probes=["rank", "linear"], every_n_steps=1)
    encoders = []
    layers = probes._layers_of
    probes._layers_of = lambda encoder: encoders.append(encoder) or layers(encoder)
    task = fit(probes, max_steps=1)
    twin, student = encoders
    assert student is task.encoder
    assert twin is not task.encoder
    expected = untrained_twin(task.encoder, 0).state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in twin.state_dict().items())


class CollapsedTask(ToyTask):
    def __init__(self, encoder):
        torch.nn.init.zeros_(encoder.out.weight)
        super().__init__(encoder)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_collapse_raises_an_alarm(fit, tone_suite):
    probes = OnlineProbes(tone_suite, probes=["linear", "rank"], baselines=())
    with pytest.warns(UserWarning, match="step 1: collapse: features use 1.00 directions"):
        fit(probes, max_steps=1, make_task=CollapsedTask)
    spread = probes.state_dict()["history"][0]["rank"]
    assert spread["mean_cosine"] == pytest.approx(1)


class TokenTask(ToyTask):
    def __init__(self, encoder):
        super().__init__(encoder)
        codebook = RandomProjectionTokenizer()
        self.tokenizers = {"frozen": codebook}


def test_tokenizers_outside_the_model_are_scored_once(fit, tone_suite, monkeypatch):
    calls = []
    score = callback.token_quality
    monkeypatch.setattr(
        callback, "token_quality", lambda *a, **k: calls.append(1) or score(*a, **k)
    )
    probes = OnlineProbes(tone_suite, probes=["knn", "tokens"], every_n_steps=1, baselines=())
    fit(probes, max_steps=2, make_task=TokenTask)
    assert len(calls) == 1
    first, last = (entry["tokens"]["frozen"] for entry in probes.state_dict()["history"])
    assert first == last
    assert first["codebooks"]["mean"]["perplexity"] > 1
    assert set(first["agreement"]) == {"tone", "half", "loud"}


def test_bad_arguments_end_in_one_line(tone_suite):
    with pytest.raises(ValueError, match="every_n_steps must be 0 or more, got -1"):
        OnlineProbes(tone_suite, every_n_steps=-1)
    with pytest.raises(ValueError, match="unknown baseline 'mel'"):
        OnlineProbes(tone_suite, baselines=("mel",))
    with pytest.raises(ValueError, match="unknown probe 'svm'; use linear or knn or ridge"):
        OnlineProbes(tone_suite, probes=["svm"])
    with pytest.raises(ValueError, match="unknown target 'teacher'; use student or ema"):
        OnlineProbes(tone_suite, target="teacher")
