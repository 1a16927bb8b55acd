"""The data module under Lightning: order, resume, validation, refusals."""

from itertools import islice

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from ssl_audio.data.datamodule import DataModule
from ssl_audio.data.folder_source import FolderSource

SETTINGS = {"batch_sec": 2.0, "min_sec": 0.05, "num_buckets": 3, "seed": 4, "valid_fraction": 0.1}


class Recorder(LightningModule):
    """One weight moved by every batch; remembers which samples it saw."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen, self.validated = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append(tuple(batch.sample_index.tolist()))
        return (self.weight * batch.waveforms.mean() / 10).pow(2).sum()

    def validation_step(self, batch, batch_idx):
        self.validated += batch.sample_index.tolist()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


def fit(data, folder, steps, resume=None, every=1, **settings):
    checkpoints = ModelCheckpoint(folder, "{step}", every_n_train_steps=every, save_top_k=-1)
    settings = {"num_sanity_val_steps": 0, "limit_val_batches": 0} | settings
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        logger=False,
        callbacks=[checkpoints],
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    module = Recorder()
    trainer.fit(module, data, ckpt_path=resume, weights_only=True if resume else None)
    return module


def planned(data, count, first=0):
    batches = (data.plan.batch(m) for m in range(first, first + count))
    return [tuple(sample.sample_index for sample in batch) for batch in batches]


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_is_exact_at_every_cut(ramp_source, tmp_path, accumulate, num_workers):
    source = ramp_source(40)

    def make_data():
        return DataModule(source, **SETTINGS, num_workers=num_workers)

    steps = 12 if accumulate == 1 else 5
    data = make_data()
    whole = fit(data, tmp_path / "whole", steps, accumulate_grad_batches=accumulate)
    assert steps * accumulate > data.plan.batches_per_epoch
    assert whole.seen == planned(data, steps * accumulate)
    for cut in range(1, steps, 1 if num_workers == 0 else 3):
        resumed = fit(
            make_data(),
            tmp_path / f"after{cut}",
            steps,
            resume=tmp_path / "whole" / f"step={cut}.ckpt",
            accumulate_grad_batches=accumulate,
        )
        assert whole.seen[: cut * accumulate] + resumed.seen == whole.seen
        assert torch.equal(resumed.weight, whole.weight)


@pytest.mark.parametrize("persistent_workers", [False, True])
def test_lightning_epochs_of_any_length_follow_on(ramp_source, tmp_path, persistent_workers):
    data = DataModule(
        ramp_source(40), **SETTINGS, num_workers=1, persistent_workers=persistent_workers
    )
    module = fit(data, tmp_path, 7, limit_train_batches=3, every=5)
    assert module.seen == planned(data, 7)
    again = DataModule(ramp_source(40), **SETTINGS)
    resumed = fit(again, tmp_path, 9, tmp_path / "step=5.ckpt", limit_train_batches=3)
    assert resumed.seen == planned(data, 4, first=5)


def test_spawned_workers_see_the_same(write_noise, tmp_path):
    for i in range(6):
        write_noise(tmp_path / "audio" / f"{i}.wav", 0.2 + i / 20)
    settings = SETTINGS | {"valid_fraction": 0.0}
    source = FolderSource(tmp_path / "audio")
    here = DataModule(source, **settings)
    there = DataModule(source, **settings, num_workers=1, multiprocessing_context="spawn")
    for expected, batch in zip(
        here.iter_batches("train"), there.iter_batches("train"), strict=True
    ):
        assert torch.equal(batch.waveforms, expected.waveforms)
        assert batch.ids == expected.ids


def test_a_second_fit_goes_on_after_the_first(ramp_source, tmp_path):
    data = DataModule(ramp_source(40), **SETTINGS)
    first, second = fit(data, tmp_path, 3), fit(data, tmp_path, 4)
    assert first.seen + second.seen == planned(data, 7)
    assert data.batches_trained == 7


def test_loaders_leave_the_global_generator_alone(ramp_source):
    data = DataModule(ramp_source(40), **SETTINGS)
    torch.manual_seed(0)
    expected = torch.get_rng_state()
    next(iter(data.train_dataloader()))
    list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), expected)


def test_validation_sees_every_held_out_segment_once_each_time(ramp_source, tmp_path):
    data = DataModule(ramp_source(60), **SETTINGS)
    module = fit(
        data, tmp_path, 4, limit_val_batches=1.0, val_check_interval=2, check_val_every_n_epoch=None
    )
    held_out = data.segment_ids("valid").tolist()
    assert 1 < len(held_out) < 20
    assert sorted(module.validated) == sorted(held_out * 2)
    assert module.validated[: len(held_out)] == module.validated[len(held_out) :]
    drawn = {s.segment for m in range(40) for s in data.plan.batch(m)}
    assert drawn == set(data.segment_ids("train").tolist())
    assert not drawn & set(held_out)


def test_nothing_held_out_trains_without_validation(ramp_source, tmp_path):
    data = DataModule(ramp_source(10), **SETTINGS | {"valid_fraction": 0.0})
    assert fit(data, tmp_path, 2, limit_val_batches=1.0).validated == []


def test_iter_batches_covers_a_split_of_a_domain_in_an_order_per_epoch(ramp_source):
    data = DataModule(ramp_source(60), **SETTINGS)

    def order(epoch):
        batches = data.iter_batches("train", 1.0, domains=["audio"], epoch=epoch)
        return [i for batch in batches for i in batch.sample_index.tolist()]

    assert order(0) == order(0) != order(1)
    assert sorted(order(0)) == data.segment_ids("train", ["audio"]).tolist()
    assert all(batch.domains.eq(1).all() for batch in data.iter_batches("all", domains=["audio"]))
    assert len(data.iter_batches("all")) == len(list(data.iter_batches("all")))


def test_random_crops_differ_between_epochs_but_not_between_runs(ramp_source):
    def first_samples(skip):
        data = DataModule(ramp_source(20), **SETTINGS | {"crop": "random", "max_sec": 0.1})
        batches = islice(data.train_dataloader(), skip, skip + 1)
        return next(batches).waveforms[:, 0].tolist()

    assert first_samples(0) == first_samples(0)
    assert first_samples(0) != first_samples(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 5}, r"seed=4 \(now 5\)"),
        ({"batch_sec": 3.0}, r"batch_sec=2\.0 \(now 3\.0\)"),
        ({"weights": {"audio": 2}}, r"weights=\{'speech': 1\.0, 'audio': 1\.0\} \(now "),
        ({"max_sec": 0.2}, "segments='[0-9a-f]+' .now '[0-9a-f]+'"),
        ({"valid_fraction": 0.5}, r"train_segments=\d+ \(now \d+\)"),
    ],
)
def test_a_state_of_another_order_is_refused_with_both_values(ramp_source, change, message):
    state = DataModule(ramp_source(40), **SETTINGS).state_dict()
    with pytest.raises(ValueError, match=message) as caught:
        DataModule(ramp_source(40), **SETTINGS | change).load_state_dict(state)
    assert "restore the old values to resume, or start a new run" in str(caught.value)


def test_other_workers_are_no_other_order(ramp_source):
    state = DataModule(ramp_source(40), **SETTINGS).state_dict() | {"batches_trained": 5}
    data = DataModule(ramp_source(40), **SETTINGS, num_workers=2)
    data.load_state_dict(state)
    first = next(iter(data.train_dataloader()))
    assert [tuple(first.sample_index.tolist())] == planned(data, 1, first=5)


def test_bad_settings_are_named(ramp_source):
    with pytest.raises(ValueError, match=r"data\.crop='middle'; use one of segments, random"):
        DataModule(ramp_source(4), batch_sec=2.0, crop="middle")
    with pytest.raises(ValueError, match=r"no clip lasts data\.min_sec=1\.0 s"):
        DataModule(ramp_source(4), batch_sec=2.0)
    speech = ramp_source(4)
    speech.clips = speech.clips[::2]
    with pytest.raises(ValueError, match="no audio segment in the train split"):
        DataModule(speech, **SETTINGS).iter_batches("train", domains=["audio"])
