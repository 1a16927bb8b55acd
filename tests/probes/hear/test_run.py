from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ssl_audio import cli, hub
from ssl_audio.models.spectral import MfccEncoder
from ssl_audio.probes.hear.embeddings import Embedder
from ssl_audio.probes.hear.folder import read_task
from ssl_audio.probes.hear.leaderboard import folders, summarised
from ssl_audio.probes.hear.run import HearRun
from ssl_audio.probes.sources import EncoderLayers, LogMelFrames
from ssl_audio.report.layers import layer_section

TABLE = {
    "tones": {"folders": ["tones-v1-trainvaltest"], "low": 0.2, "high": 1.0},
    "beeps": {"folders": ["beeps-v1-full"], "low": 0.0, "high": 1.0},
}


@pytest.fixture(scope="module")
def source():
    return EncoderLayers(MfccEncoder().eval(), ["last"])


def test_embeddings_do_not_depend_on_the_batch_size(scene_task, tmp_path, source):
    task = read_task(scene_task(tmp_path))
    found = [Embedder(source, batch_sec=sec).split(task, "train")[0] for sec in (0.1, 1.5, 60.0)]
    for other in found[1:]:
        torch.testing.assert_close(other.x, found[0].x, atol=1e-4, rtol=1e-5)
        np.testing.assert_array_equal(other.targets, found[0].targets)


def test_events_have_the_centres_of_their_frames(event_task, tmp_path, source):
    task = read_task(event_task(tmp_path))
    data, _ = Embedder(source).split(task, "test")
    assert data.x.shape[0] == len(data.targets) == sum(f.stop - f.start for f in data.files)
    for file in data.files:
        hop_ms = 1000 / source.frame_rate
        first = 1000 * source.frame_offset_sec + hop_ms / 2
        np.testing.assert_allclose(np.diff(file.timestamps_ms), hop_ms)
        assert file.timestamps_ms[0] == pytest.approx(first)
        for event in data.events[file.name]:
            column = task.problem.labels.index(event.label)
            active = data.targets[file.start : file.stop, column]
            wanted = (event.end_ms - event.start_ms) / hop_ms
            assert active.sum() == pytest.approx(wanted, abs=1.01)


def test_embeddings_are_cached_and_a_broken_cache_is_made_anew(scene_task, tmp_path, source):
    task = read_task(scene_task(tmp_path))
    (tmp_path / str(task.audio_rate_hz)).mkdir()
    embedder = Embedder(source, cache_dir=tmp_path / "cache")
    task.splits["train"][0].path.write_text("broken")
    first, failures = embedder.split(task, "train")
    assert len(first.x) == 11
    assert len(failures) == 1
    (file,) = (tmp_path / "cache").glob("*.safetensors")
    assert len(load_file(file)) == 11
    again, told = embedder.split(task, "train")
    assert told == failures
    file.write_bytes(file.read_bytes()[:100])
    repaired, _ = embedder.split(task, "train")
    for other in (again, repaired):
        torch.testing.assert_close(other.x, first.x)


def test_a_suite_of_scenes_and_events(scene_task, event_task, tmp_path, source):
    scene_task(tmp_path / "hear")
    event_task(tmp_path / "hear")
    run = HearRun(tmp_path / "hear", cache_dir=tmp_path / "cache", table=TABLE)
    results = run.run({"mfcc": source})
    assert results["warnings"] == []
    tones = results["scores"]["mfcc"]["tones-v1-trainvaltest"]
    assert tones["value"] == 1.0
    assert tones["scores"]["mAP_mean"] == 1.0
    assert len(tones["folds"][0]["grid"]) == 16
    beeps = results["scores"]["mfcc"]["beeps-v1-full"]
    assert beeps["metric"] == "event_onset_200ms_fms"
    assert beeps["value"] > 0.6
    assert beeps["ci95"][0] <= beeps["value"] <= beeps["ci95"][1]
    assert results["summary"]["mfcc"]["tasks"] == ["tones", "beeps"]
    assert json.loads(json.dumps(results)) == results
    assert run.run({"mfcc": source}) == results


def test_valid_chooses_among_all_layers(scene_task, event_task, tmp_path, tiny_encoder):
    scene_task(tmp_path, folds=3)
    event_task(tmp_path)
    sources = {"trained": EncoderLayers(tiny_encoder), "log-mel": LogMelFrames()}
    run = HearRun(tmp_path, layer="all", table=TABLE, cache_dir=tmp_path / "cache")
    results = run.run(sources)
    assert results["notes"][0] == "protocol ours, layer of each fold by valid"
    for record in results["scores"]["trained"].values():
        assert list(record["grid"]) == ["0", "1", "2", "output"]
        for fold in record["folds"]:
            assert (
                fold["layers"][fold["layer"]] == fold["validation"] == max(fold["layers"].values())
            )
    for record in results["scores"]["log-mel"].values():
        assert record["layer"] == "log-mel"
    name = "tones-v1-new_split_kfold"
    page = layer_section(results)
    assert f"{name}: valid score, %" in page
    assert page.count("<svg") == 2
    single = HearRun(tmp_path, layer="1").run({"x": EncoderLayers(tiny_encoder, ["1"])}, [name])
    alone = single["scores"]["x"][name]["folds"]
    together = results["scores"]["trained"][name]["folds"]
    for one, fold in zip(alone, together, strict=True):
        assert one["validation"] == pytest.approx(fold["layers"]["1"])


def test_two_runs_give_the_same_numbers(scene_task, tmp_path, source):
    directory = scene_task(tmp_path, folds=3)
    run = HearRun(tmp_path, "heareval", table=TABLE)
    records = [
        run.run({"mfcc": source}, [directory.name])["scores"]["mfcc"][directory.name]
        for _ in range(2)
    ]
    for record in records:
        del record["seconds"]
    assert records[0] == records[1]
    folds = records[0]["folds"]
    assert [len(fold["grid"]) for fold in folds] == [8, 1, 1]  # the kit's first rotation chooses
    assert folds[1]["chosen"]["lr"] == folds[0]["chosen"]["lr"]
    low, high = records[0]["ci95"]
    assert low <= records[0]["value"] <= high


def test_what_fails_is_told_and_the_others_go_on(scene_task, event_task, tmp_path, source):
    scene_task(tmp_path)
    broken = event_task(tmp_path)
    (broken / "valid.json").unlink()
    run = HearRun(tmp_path, table=TABLE | {"x": {"folders": ["gone-v1"]}})
    results = run.run({"mfcc": source})
    assert (results["failed"], results["absent"]) == (["beeps-v1-full"], ["gone-v1"])
    assert list(results["scores"]["mfcc"]) == ["tones-v1-trainvaltest"]
    told = "\n".join(results["warnings"])
    assert "valid.json is missing" in told
    assert f"not found under {tmp_path}: gone-v1" in results["notes"]
    asked = run.run({"mfcc": source}, ["gone-v1"])
    assert asked["failed"] == ["gone-v1"]
    assert "task gone-v1: not in" in asked["warnings"][0]
    with pytest.raises(ValueError, match="no HEAR task 'esc50'; tasks: beeps-v1-full, tones"):
        run.run({"mfcc": source}, ["esc50"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no task of HEAR; expected there: dcase2016_task2"):
        HearRun(tmp_path / "empty").run({"mfcc": source})
    with pytest.raises(ValueError, match="does not exist; give the folder"):
        HearRun(tmp_path / "nothing")


def test_resampled_audio_is_noted(scene_task, tmp_path, source):
    directory = scene_task(tmp_path, count=6, rate=48_000)
    results = HearRun(tmp_path).run({"mfcc": source}, [directory.name])
    assert results["warnings"] == [
        "task tones-v1-trainvaltest: audio of 48000 Hz, resampled to 16000 Hz with soxr HQ"
    ]


def test_the_summary_names_its_tasks_and_end_points():
    table = {
        "bees": {"folders": ["bees0", "bees1"], "low": 0.4, "high": 0.8},
        "tones": {"folders": ["tones"], "low": 0.0, "high": 0.5},
    }
    values = {"bees0": 0.5, "bees1": 0.7, "tones": 0.25}
    summary = summarised(values, table)
    assert summary["mean"] == pytest.approx((0.6 + 0.25) / 2)
    assert summary["s_score"] == pytest.approx(50.0)
    assert "34 models" in summary["end_points"]
    partly = summarised({"bees0": 0.5, "tones": 0.25}, table)
    assert partly["missing"] == ["bees"]
    assert partly["mean"] == 0.25
    assert summarised({}, table)["mean"] is None


def test_the_table_has_the_nineteen_tasks(tmp_path):
    table = HearRun(tmp_path).table
    assert len(table) == 19
    assert len(folders(table)) == 20  # two folders of beehives
    assert all(row["low"] < row["high"] for row in table.values())


def test_the_command(scene_task, tmp_path, capsys):
    scene_task(tmp_path / "hear")
    hub.save(MfccEncoder(), tmp_path / "model")
    arguments = ["--root", str(tmp_path / "hear"), "--output", str(tmp_path / "out")]
    cli.main(["probe", "--suite", "hear", "--model", str(tmp_path / "model"), *arguments])
    shown = capsys.readouterr().out
    assert "Probes: suite hear" in shown
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["protocol"] == "ours"
    assert set(results["scores"]) == {"trained", "untrained", "log-mel"}
    assert "protocol ours, layer last" in (tmp_path / "out" / "results.md").read_text()
