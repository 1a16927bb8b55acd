from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ssl_audio import cli, hub
from ssl_audio.models.spectral import MfccEncoder
from ssl_audio.probes.sources import EncoderLayers, LogMelFrames
from ssl_audio.probes.superb.run import TASKS, SuperbRun
from ssl_audio.probes.superb.task import Recipe

QUICK = {"steps": 30, "eval_every": 15, "lrs": [1e-2]}


def tiny_table(*names: str, **changes) -> dict:
    table = SuperbRun(Path.cwd()).table
    return {name: {**table[name], **QUICK, **changes} for name in names}


@pytest.fixture
def root(keywords, commands, speakers, tmp_path):
    keywords(tmp_path / "corpora" / "speech_commands")
    commands(tmp_path / "corpora" / "fluent_speech_commands_dataset")
    speakers(tmp_path / "corpora" / "VoxCeleb1")
    return tmp_path / "corpora"


@pytest.fixture
def source():
    return EncoderLayers(MfccEncoder().eval())


def test_a_suite_with_missing_data(root, source):
    table = tiny_table("ks", "ic", "er", "sid", train_silences=3, valid_silences=3)
    table["pr"] = {"folder": "LibriSpeech"}
    (root / table["er"]["folder"]).mkdir()
    run = SuperbRun(root, table=table, not_implemented={"st": "wants a decoder"})
    results = run.run({"mfcc": source})
    assert results["absent"] == ["pr"]
    assert f"not found under {root}: pr (LibriSpeech)" in results["notes"]
    assert list(results["scores"]["mfcc"]) == ["ks", "ic", "sid"]
    assert results["failed"] == ["er"]
    (warning,) = results["warnings"]
    assert warning.startswith("task er: ")
    assert "Session1 is missing; unpack IEMOCAP" in warning
    assert "st is not implemented: wants a decoder" in results["notes"]
    record = results["scores"]["mfcc"]["ic"]
    assert record["ci95"][0] <= record["value"] <= record["ci95"][1]
    assert record["steps"] == 30
    assert json.loads(json.dumps(results)) == results


def test_a_second_run_reads_the_first_and_equals_it(root, source, tmp_path):
    table = tiny_table("ic")
    cached = SuperbRun(root, table=table, cache_dir=tmp_path / "cache")
    first = cached.run({"mfcc": source})
    (record,) = (tmp_path / "cache").glob("superb-[!m]*.json")
    before = record.stat().st_mtime_ns
    assert cached.run({"mfcc": source}) == first
    assert record.stat().st_mtime_ns == before
    fresh = SuperbRun(root, table=table).run({"mfcc": source})
    for results in (first, fresh):
        results["scores"]["mfcc"]["ic"].pop("seconds")
    assert fresh == first
    cached.table = tiny_table("ic", steps=31)  # another recipe
    cached.run({"mfcc": source})
    assert len(list((tmp_path / "cache").glob("superb-[!m]*.json"))) == 2


def test_a_task_keeps_its_key_while_it_runs(root, source, tmp_path):
    tiny = {"min_train_sec": 0.2, "max_train_sec": 0.5, "valid_speakers": 3, "valid_trials": 20}
    table = tiny_table("asv", steps=2, eval_every=2, width=8, pooled=12, **tiny)
    cached = SuperbRun(root, table=table, cache_dir=tmp_path / "cache")
    sources = {"mfcc": source, "log-mel": LogMelFrames()}
    first = cached.run(sources)
    assert all(first["scores"].values())
    records = sorted((tmp_path / "cache").glob("superb-*.json"))
    assert cached.run(sources) == first
    assert sorted((tmp_path / "cache").glob("superb-*.json")) == records


def test_scores_do_not_depend_on_the_batch_size(root, source):
    table = tiny_table("ic", "ks", train_silences=3, valid_silences=3)
    folds = []
    for clips in (1, 4, 16):
        run = SuperbRun(root, table=table, batch_sec=0.4 * clips)
        records = run.run({"mfcc": source})["scores"]["mfcc"]
        folds.append([(r["scores"], r["folds"][0]["chosen"]) for r in records.values()])
    assert folds[0] == folds[1] == folds[2]


def test_features_that_are_not_finite_are_told(root):
    class Broken(EncoderLayers):
        def layers(self, waveforms, lengths):
            layers, frames = super().layers(waveforms, lengths)
            return {name: x * torch.nan for name, x in layers.items()}, frames

    source = Broken(MfccEncoder().eval())
    results = SuperbRun(root, table=tiny_table("ic")).run({"nan": source})
    assert results["failed"] == ["ic"]
    assert "no file of split 'train' can be used" in results["warnings"][0]


def test_what_a_user_can_get_wrong(tmp_path, source):
    with pytest.raises(ValueError, match="does not exist; give the folder with SUPERB's data"):
        SuperbRun(tmp_path / "nothing")
    run = SuperbRun(tmp_path)
    with pytest.raises(ValueError, match="no SUPERB task 'st'; CoVoST"):
        run.run({}, ["st"])
    with pytest.raises(ValueError, match="no SUPERB task 'kws'; tasks: "):
        run.run({}, ["kws"])
    with pytest.raises(ValueError, match="unknown protocol 'heareval'"):
        SuperbRun(tmp_path, "heareval")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_steps must be at least 1"):
        SuperbRun(tmp_path, max_steps=0)


def test_the_table_has_the_recipes_of_the_paper():
    run = SuperbRun(Path.cwd())
    table = run.table
    assert set(run.not_implemented) == {"st", "vc"}
    assert set(table) == set(TASKS)
    recipes = {name: Recipe.of(row) for name, row in table.items()}
    effective = {name: r.batch_size * r.accumulate for name, r in recipes.items()}
    assert {n: effective[n] for n in ("ks", "ic", "er", "sid", "asv")} == {
        "ks": 32, "ic": 32, "er": 32, "sid": 32, "asv": 50
    }  # fmt: skip
    assert {1e-4} <= set(recipes["sid"].lrs)


def test_the_command(root, tmp_path, capsys):
    hub.save(MfccEncoder(), tmp_path / "model")
    arguments = ["--root", str(root), "--output", str(tmp_path / "out"), "--tasks", "ic,er"]
    arguments += ["--max-steps", "4", "--model", str(tmp_path / "model"), "--layer-norm"]
    cli.main(["probe", "--suite", "superb", *arguments])
    shown = capsys.readouterr().out
    assert "Probes: suite superb" in shown
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results["scores"]) == {"trained", "untrained", "log-mel"}
    assert results["failed"] == ["er"]
    assert "Session1 is missing" in results["warnings"][0]
    record = results["scores"]["trained"]["ic"]
    assert (record["steps"], record["recipe_steps"]) == (4, 200_000)
    assert record["layer"] == "sum, normalised"
    with pytest.raises(SystemExit):
        cli.main(["probe", "--suite", "superb", *arguments, "--layers", "concat"])
    assert "SUPERB learns a sum of layers" in capsys.readouterr().err
