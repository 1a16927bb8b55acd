"""Labelled clips: reading csv tasks, drawing by class, batches with targets."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from ssl_audio import audio
from ssl_audio.data.labelled_datamodule import LabelledDataModule
from ssl_audio.data.labelled_plan import LabelledPlan
from ssl_audio.data.labelled_source import LabelledSource

RATE_HZ = 16_000
LABELS = {"train": ["a"] * 6 + ["b"] * 2 + ["b;c"], "valid": ["a", "b"], "test": ["c", "a", "b"]}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "probes" / "toy"
    (folder / "audio").mkdir(parents=True)
    for split, labels in LABELS.items():
        rows = ["path,label,speaker"]
        for number, label in enumerate(labels):
            name = f"probes/toy/audio/{split}{number}.wav"
            audio.write(tmp_path / name, np.full(1600 + 160 * number, 0.1, np.float32), RATE_HZ)
            rows.append(f"{name},{label},")
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def data_of(root, **settings):
    source = LabelledSource(root, "toy", max_sec=0.15)
    defaults = {"batch_size": 4, "balanced": False, "batch_sec": 1.0, "max_sec": 0.15}
    return LabelledDataModule(source, **defaults | settings)


def test_the_splits_and_classes_are_those_of_the_files(root):
    source = LabelledSource(root / "probes", "toy", max_sec=0.15)
    assert source.labels == ("a", "b", "c")
    assert Counter(clip.tags["split"] for clip in source.clips) == {
        split: len(labels) for split, labels in LABELS.items()
    }
    assert source.targets.sum(0).tolist() == [8, 5, 2]
    assert max(clip.num_samples for clip in source.clips) == 2400


def test_every_batch_brings_its_targets(root):
    data = data_of(root)
    for loader, split in ((data.val_dataloader(), "valid"), (data.test_dataloader(), "test")):
        seen = {}
        for loaded in loader:
            batch = data.transfer_batch_to_device(loaded, torch.device("cpu"), 0)
            for name, target in zip(batch.ids, batch.targets, strict=True):
                seen[name] = ";".join(np.array(data.labels)[target.bool().numpy()])
        names = [f"{split}/probes/toy/audio/{split}{i}.wav" for i in range(len(LABELS[split]))]
        assert seen == dict(zip(names, LABELS[split], strict=True))


def test_training_goes_on_where_it_was(root):
    data = data_of(root)
    batches = iter(data.train_dataloader())
    ahead = [next(batches).ids for _ in range(7)]
    resumed = data_of(root)
    resumed.load_state_dict({"batches_trained": 4, "plan": data.state_dict()["plan"]})
    batches = iter(resumed.train_dataloader())
    assert [next(batches).ids for _ in range(3)] == ahead[4:]
    with pytest.raises(ValueError, match=r"balanced=False \(now True\)"):
        data_of(root, balanced=True).load_state_dict(data.state_dict())


def plan_of(balanced, seed=0):
    targets = np.zeros((110, 2))
    targets[:100, 0] = targets[100:, 1] = 1
    return LabelledPlan(np.arange(110) + 5, targets, batch_size=16, balanced=balanced, seed=seed)


def test_an_epoch_has_every_clip_once():
    plan = plan_of(balanced=False)
    for epoch in (0, 1):
        first = epoch * plan.batches_per_epoch
        batches = [plan.batch(first + i) for i in range(plan.batches_per_epoch)]
        assert sorted(s.segment for batch in batches for s in batch) == list(range(5, 115))
        positions = [s.sample_index for batch in batches for s in batch]
        assert positions == list(range(epoch * 110, (epoch + 1) * 110))
        assert max(map(len, batches)) == 16


def test_balanced_draws_meet_the_classes_equally_often():
    plan = plan_of(balanced=True)
    drawn = [s.segment for i in range(40 * plan.batches_per_epoch) for s in plan.batch(i)]
    rare = sum(segment >= 105 for segment in drawn) / len(drawn)
    assert abs(rare - 0.5) < 0.03


def test_the_plan_is_a_function_of_seed_and_index():
    for balanced in (False, True):
        forward, backward = plan_of(balanced), plan_of(balanced)
        expected = [forward.batch(i) for i in range(20)]
        assert [backward.batch(i) for i in reversed(range(20))] == expected[::-1]
        assert plan_of(balanced, seed=1).batch(0) != expected[0]
        sample = expected[3][0]
        assert forward.replacement(sample, 0) == backward.replacement(sample, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "test.csv").unlink(), r"test\.csv is missing; a task needs train\.csv"),
        (
            lambda f: (f / "train.csv").write_text("path,label,start,end\n"),
            "labels segments of clips; choose a data.task that labels clips",
        ),
        (
            lambda f: (f / "test.csv").write_text("path,label\nprobes/toy/audio/test0.wav,\n"),
            r"test\.csv: test/probes/toy/audio/test0\.wav has no label; add one",
        ),
        (
            lambda f: (f / "test.csv").write_text("path,label\nprobes/toy/audio/test0.wav,x\n"),
            "the label 'x' of test/probes/toy/audio/test0.wav is in no training row",
        ),
    ],
)
def test_a_wrong_task_is_one_line(root, change, message):
    change(root / "probes" / "toy")
    with pytest.raises(ValueError, match=message):
        LabelledSource(root, "toy", max_sec=1.0)


def test_an_unknown_task_names_the_known(root):
    with pytest.raises(ValueError, match=r"data\.task is one of: toy"):
        LabelledSource(root, "digits", max_sec=1.0)
