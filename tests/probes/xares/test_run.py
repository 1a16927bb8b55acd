from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssl_audio import cli, hub
from ssl_audio.models.spectral import MfccEncoder
from ssl_audio.probes.embeddings import Extraction
from ssl_audio.probes.sources import EncoderLayers
from ssl_audio.probes.xares.data import rows_of
from ssl_audio.probes.xares.run import XaresRun
from ssl_audio.probes.xares.task import Recipe, read_task


@pytest.fixture(scope="module")
def source():
    return EncoderLayers(MfccEncoder().eval(), ["last"])


def test_rows_are_means_of_whole_crops(root, table, source):
    task = read_task(root, "folds", table["folds"])
    rows, failures = rows_of(task, "0", Extraction(source))
    assert failures == []
    crops = [int(round(sample.duration_sec / 0.15, 6)) for sample in task.splits["0"]]
    assert np.bincount(rows.clips).tolist() == crops
    wave = torch.tensor(task.splits["0"][0].read(0.15, 0.15))[None]
    layers, _ = source.layers(wave, torch.tensor([wave.shape[1]]))
    torch.testing.assert_close(rows.x[1], layers["last"][0].mean(0), atol=1e-4, rtol=1e-4)


def test_a_clip_shorter_than_a_crop_is_not_padded(root, table, source):
    task = read_task(root, "tones", table["tones"])
    whole, _ = rows_of(task, "test", Extraction(source))
    longer = replace(task, recipe=replace(task.recipe, crop_sec=10.0))
    again, _ = rows_of(longer, "test", Extraction(source))
    torch.testing.assert_close(again.x, whole.x)


def test_frames_have_the_labels_of_their_centres(root, table, source):
    task = read_task(root, "events", table["events"])
    rows, _ = rows_of(task, "test", Extraction(source))
    sample = task.splits["test"][0]
    first = rows.targets[rows.clips == 0]
    assert first.sum(0) / source.frame_rate == pytest.approx([0.5] * 3, abs=0.03)
    order = [task.labels[row.argmax()] for row in first[[5, len(first) // 2, -5]]]
    assert order == [event.label for event in task.events_of(sample)]


def test_a_suite_with_what_is_missing_named(root, table, source, tmp_path):
    table |= {"absent": table["tones"]}
    (root / "folds" / "fold-2-000000.tar").write_bytes(b"broken")
    run = XaresRun(root, table=table, cache_dir=tmp_path / "cache")
    results = run.run({"mfcc": source})
    assert (results["failed"], results["absent"]) == (["folds"], ["absent"])
    assert [line.split(":")[0] for line in results["warnings"]] == ["task folds"]
    assert f"not found under {root}: absent (zenodo.org/records/1)" in results["notes"]
    scores = results["scores"]["mfcc"]
    assert list(scores) == ["tones mlp", "tones knn", "events mlp"]
    assert scores["tones knn"]["value"] == 1.0
    assert scores["events mlp"]["value"] > 0.5
    low, high = scores["events mlp"]["ci95"]
    assert low <= scores["events mlp"]["value"] <= high
    means = results["summary"]["mfcc"]
    wanted = (3 * scores["tones mlp"]["value"] + 2 * scores["events mlp"]["value"]) / 5
    assert means["mlp"]["weighted_average"] == pytest.approx(wanted)
    assert means["knn"] == {"weighted_average": 1.0, "tasks": ["tones"]}
    assert json.loads(json.dumps(results)) == results

    def unused(*arguments):
        raise AssertionError("a finished task is read, not run")

    reader = EncoderLayers(source.encoder, ["last"])
    reader.layers = unused
    assert run.run({"mfcc": reader}) == results


def test_folds_and_protocols(root, table, source):
    records = {
        protocol: XaresRun(root, protocol, table=table).run({"mfcc": source}, ["folds"])
        for protocol in ("ours", "compat")
    }
    for protocol, results in records.items():
        folds = results["scores"]["mfcc"]["folds mlp"]["folds"]
        assert len(folds) == 3
        assert protocol in results["notes"][0]
    assert "mended" in records["ours"]["notes"][0]
    assert records["ours"]["scores"]["mfcc"]["folds knn"]["value"] == 1.0
    assert all(
        fold["validation"] == fold["test"]  # compat chooses on test, and says so
        for fold in records["compat"]["scores"]["mfcc"]["folds mlp"]["folds"]
    )


def test_valid_chooses_among_all_layers(root, table, tiny_encoder):
    run = XaresRun(root, layer="all", table=table)
    results = run.run({"trained": EncoderLayers(tiny_encoder)}, ["tones", "folds"])
    scores = results["scores"]["trained"]
    assert list(scores) == ["tones mlp", "tones knn", "folds mlp", "folds knn"]
    for record in scores.values():
        assert list(record["grid"]) == ["0", "1", "2", "output"]
        for fold in record["folds"]:
            assert fold["layers"][fold["layer"]] == max(fold["layers"].values())
    single = XaresRun(root, layer="1", table=table)
    alone = single.run({"x": EncoderLayers(tiny_encoder, ["1"])}, ["tones"])["scores"]["x"]
    assert alone["tones mlp"]["folds"][0]["validation"] == pytest.approx(
        scores["tones mlp"]["grid"]["1"][0]
    )


def test_scores_do_not_depend_on_the_batch_size(root, table, source):
    values = []
    for clips in (1, 4, 16):
        run = XaresRun(root, table=table, batch_sec=1.5 * clips)  # seconds of the longest clip
        results = run.run({"mfcc": source}, ["tones", "events"])
        records = results["scores"]["mfcc"]
        values.append({name: record["value"] for name, record in records.items()})
    assert len(values[0]) == 3
    assert values[0] == values[1] == values[2]


def test_the_sample_that_cannot_be_read_is_left_out(root, table, source):
    task = read_task(root, "tones", table["tones"])
    first = task.splits["test"][0]
    data = bytearray(first.tar.read_bytes())
    data[first.offset : first.offset + 12] = b"no riff here"
    first.tar.write_bytes(bytes(data))
    rows, failures = rows_of(task, "test", Extraction(source))
    assert rows.num_clips == len(task.splits["test"]) - 1
    assert len(failures) == 1
    assert "clip0" in failures[0]


def test_the_table_has_every_public_task(tmp_path):
    run = XaresRun(tmp_path)
    assert len(run.table) + len(run.not_implemented) == 22
    for row in run.table.values():
        recipe = Recipe(**row)
        patterns = (recipe.folds,) if recipe.folds else (recipe.train, recipe.valid, recipe.test)
        assert all(pattern.endswith(".tar") for pattern in patterns)
        assert recipe.knn == (recipe.kind == "clip" and recipe.label != "sound")


def test_command(root, tars, tmp_path, capsys):
    hub.save(MfccEncoder(), tmp_path / "mfcc")
    for seed, split in enumerate(("train", "valid", "test")):
        path = root / "vocalsound" / f"{split}-000000.tar"
        tars.clips(path, tmp_path, 100 * seed, key="label")
    arguments = ["--root", str(root), "--output", str(tmp_path / "out"), "--tasks", "vocalsound"]
    cli.main(["probe", "--model", str(tmp_path / "mfcc"), "--suite", "xares", *arguments])
    out = capsys.readouterr().out
    assert "clotho is not implemented" in out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {name: list(records) for name, records in results["scores"].items()} == {
        name: ["vocalsound mlp", "vocalsound knn"] for name in ("trained", "untrained", "log-mel")
    }


def test_one_class_in_train_is_one_line(root, table, source, tars, tmp_path):
    path = root / "tones" / "train-000000.tar"
    wave = tars.sound("low", 0.4)
    tars.write(path, [x for i in "ab" for x in tars.members(i, wave, {"tone": "low"}, tmp_path)])
    results = XaresRun(root, table=table).run({"mfcc": source}, ["tones", "folds"])
    assert results["failed"] == ["tones"]
    assert results["warnings"] == ["task tones: split 'train' has only one class, 'low'"]
    assert len(results["scores"]["mfcc"]) == 2


def test_a_split_without_samples_is_one_line(root, table, source):
    task = read_task(root, "tones", table["tones"])
    empty = replace(task, splits={**task.splits, "valid": ()})
    with pytest.raises(ValueError, match="no sample of split 'valid' can be used, there is none"):
        rows_of(empty, "valid", Extraction(source))
