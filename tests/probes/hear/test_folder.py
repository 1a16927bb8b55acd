from __future__ import annotations

import json

import pytest

from ssl_audio.probes.hear.folder import read_task
from ssl_audio.probes.hear.grid import Schedule
from ssl_audio.probes.metrics.events import Event


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_scene_task(scene_task, tmp_path):
    task = read_task(scene_task(tmp_path))
    assert task.name == "tones-v1-trainvaltest"
    assert task.problem.labels == ("high", "low", "mid")
    assert task.problem.scores == ("top1_acc", "mAP")
    assert not task.problem.multilabel
    assert not task.problem.is_event
    assert task.problem.schedule == Schedule(max_epochs=9)
    assert len(task.rotations) == 1
    assert {clip.labels for clip in task.splits["train"]} == {("high",), ("low",), ("mid",)}
    assert all(clip.path.is_file() for clips in task.splits.values() for clip in clips)
    names = [clip.name for clip in task.splits["train"]]
    assert names != sorted(names)  # the kit shuffles with seed 0


def test_an_event_task(event_task, tmp_path):
    task = read_task(event_task(tmp_path))
    assert task.problem.is_event
    assert task.problem.multilabel
    assert task.problem.postprocessing == {
        "median_filter_ms": (60.0,),
        "min_duration": (60.0, 125.0),
    }
    assert isinstance(task.splits["test"][0].events[0], Event)


def test_folds_rotate(scene_task, tmp_path):
    task = read_task(scene_task(tmp_path, folds=4))
    assert [rotation.test for rotation in task.rotations] == [(f"fold{i:02d}",) for i in range(4)]


def test_optional_keys_may_be_absent(scene_task, tmp_path):
    directory = scene_task(tmp_path, folds=3)
    edit(directory / "task_metadata.json", lambda m: [m.pop("splits"), m.pop("evaluation_params")])
    task = read_task(directory)
    assert sorted(task.splits) == ["fold00", "fold01", "fold02"]
    assert task.problem.schedule == Schedule()
    edit(directory / "task_metadata.json", lambda m: m.update(nfolds=3))
    assert len(read_task(directory).rotations) == 3


def test_the_loss_may_choose(scene_task, tmp_path):
    directory = scene_task(tmp_path)
    edit(
        directory / "task_metadata.json",
        lambda m: m.update(use_scoring_for_early_stopping=False),
    )
    assert read_task(directory).problem.select_on_loss


def test_audio_at_48_khz_is_read_where_16_is_absent(scene_task, tmp_path):
    assert read_task(scene_task(tmp_path, count=3, rate=48_000)).audio_rate_hz == 48_000


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        (lambda d: (d / "valid.json").unlink(), r"valid\.json is missing; unpack"),
        (lambda d: (d / "valid.json").write_text("{"), r"valid\.json is not JSON"),
        (lambda d: (d / "valid.json").write_text("{}"), r"valid\.json: no clip"),
        (lambda d: (d / "labelvocabulary.csv").unlink(), r"labelvocabulary\.csv is missing"),
        (lambda d: (d / "labelvocabulary.csv").write_text("a,b\n1,2\n"), "needs columns idx"),
        (lambda d: (d / "labelvocabulary.csv").write_text("idx,label\n1,x\n"), "idx must count"),
        (lambda d: (d / "16000").rename(d / "audio"), "no audio folder named after its rate"),
        (
            lambda d: edit(d / "test.json", lambda s: s.update({"0.wav": ["loud"]})),
            r"label 'loud' of 0\.wav is not in labelvocabulary",
        ),
        (
            lambda d: edit(d / "test.json", lambda s: s.update({"0.wav": ["low", "mid"]})),
            r"0\.wav has 2 labels, a multiclass task one",
        ),
        (
            lambda d: edit(d / "task_metadata.json", lambda m: m.update(evaluation=["wer"])),
            "unknown score 'wer'",
        ),
        (
            lambda d: edit(d / "task_metadata.json", lambda m: m.update(splits=["train", "test"])),
            "split 'valid' is missing",
        ),
        (
            lambda d: edit(d / "task_metadata.json", lambda m: m.pop("embedding_type")),
            "embedding_type is None; known are scene, event",
        ),
    ],
)
def test_a_broken_folder_is_one_line(scene_task, tmp_path, breakage, message):
    directory = scene_task(tmp_path, count=3)
    breakage(directory)
    with pytest.raises(ValueError, match=message) as raised:
        read_task(directory)
    assert "\n" not in str(raised.value)
