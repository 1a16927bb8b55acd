"""``ssl-audio probe`` and ``ssl-audio compare`` from files to files."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

import ssl_audio
from ssl_audio import audio, cli
from ssl_audio.models import HubertEncoder
from ssl_audio.probes.compare import ProbedRun, compare
from ssl_audio.tokenizers import RandomProjectionTokenizer

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 24,
    "conv_dim": [12] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}
COUNTS = {"train": 12, "valid": 6, "test": 9}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two tasks: which tone (clips), loud or soft (segments with speakers)."""
    root = tmp_path_factory.mktemp("tasks")
    rng = np.random.default_rng(0)
    tables = {"tone": ["path,label"], "loud": ["path,label,start,end,speaker"]}
    for split, count in COUNTS.items():
        rows = {name: [head[0]] for name, head in tables.items()}
        for i in range(count):
            time = np.arange(8000) / 16_000
            wave = np.where(time < 0.25, 0.4, 0.04) * np.sin(
                2 * np.pi * (300 + 400 * (i % 3)) * time
            )
            path = f"audio/{split}{i}.wav"
            (root / "audio").mkdir(exist_ok=True)
            audio.write(
                root / path, (wave + 0.003 * rng.standard_normal(8000)).astype("f4"), 16_000
            )
            rows["tone"].append(f"{path},t{i % 3}")
            rows["loud"] += [f"{path},loud,0.0,0.25,s{i % 2}", f"{path},soft,0.25,0.5,s{i % 2}"]
        for name, lines in rows.items():
            (root / "probes" / name).mkdir(parents=True, exist_ok=True)
            (root / "probes" / name / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(4)
    return str(ssl_audio.save(HubertEncoder(**SIZES), tmp_path_factory.mktemp("encoder")))


def probe(model, root, output, *options):
    arguments = ["--model", model, "--root", str(root), "--output", str(output), "--device", "cpu"]
    cli.main(["probe", *arguments, *options])
    return json.loads((output / "results.json").read_text())


def without_times(results):
    def timeless(values):
        return {key: value for key, value in values.items() if key != "seconds"}

    return json.loads(json.dumps(results), object_hook=timeless)


@pytest.fixture(scope="module")
def probed(model, root, tmp_path_factory):
    output = tmp_path_factory.mktemp("probed")
    return probe(model, root, output), output


def test_a_table_a_json_and_a_page(probed, capsys):
    results, output = probed
    assert set(results["scores"]) == {"trained", "untrained", "log-mel"}
    assert set(results["scores"]["trained"]) == {"tone", "loud", "loud_boundaries"}
    assert results["failed"] == []
    page = (output / "results.html").read_text()
    assert "tone: valid score, %" in page
    assert "<script" not in page
    assert "http" not in page
    assert "| tone | accuracy |" in (output / "results.md").read_text()


def test_rerun_computes_nothing(model, root, probed, monkeypatch):
    results, output = probed
    monkeypatch.setattr("ssl_audio.probes.runner.stored_features", None)
    assert probe(model, root, output) == results


def test_jobs_find_what_one_process_finds(model, root, probed, tmp_path, capsys):
    results = probe(model, root, tmp_path / "out", "--jobs", "2")
    assert without_times(results) == without_times(probed[0])
    assert capsys.readouterr().err == ""


def test_jobs_through_submitit(model, root, probed, tmp_path, monkeypatch, capsys):
    # submitit's debug cluster runs jobs in this process.
    options = ["--jobs", "2", "--cluster", "debug", "--cluster-option", "timeout_min=5"]
    computed = []
    monkeypatch.setattr(
        "ssl_audio.probes.runner.write_json", lambda p, x: computed.append(p) or _write(p, x)
    )
    results = probe(model, root, tmp_path / "out", *options)
    assert without_times(results) == without_times(probed[0])
    assert len(set(computed)) == len(computed)
    with pytest.raises(SystemExit):
        probe(model, root, tmp_path / "out", "--cluster", "debug", "--cluster-option", "gpu")
    assert "--cluster-option gpu: write KEY=VALUE" in capsys.readouterr().err


def _write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def test_more_probes_are_more_rows(model, root, tmp_path):
    options = ["--tasks", "tone", "--probes", "knn,ridge", "--layers", "last"]
    results = probe(model, root, tmp_path, *options)
    assert set(results["scores"]["trained"]) == {"tone", "tone/ridge"}
    assert results["scores"]["trained"]["tone"]["probe"] == "knn"


def test_a_broken_task_is_a_row_and_the_others_go_on(model, root, tmp_path, capsys):
    for name in ("tone", "loud"):
        (tmp_path / "probes" / name).mkdir(parents=True)
        for split in COUNTS:
            text = (root / "probes" / name / f"{split}.csv").read_text()
            text = text.replace("t1", "t0").replace("t2", "t0") if name == "tone" else text
            (tmp_path / "probes" / name / f"{split}.csv").write_text(text)
    (tmp_path / "audio").symlink_to(root / "audio")
    results = probe(model, tmp_path, tmp_path / "out")
    assert results["failed"] == ["tone"]
    line = "task tone: split 'train' has only one class, 't0'"
    assert line in results["warnings"]
    markdown = (tmp_path / "out" / "results.md").read_text()
    assert "| tone | failed | - | - | - | - |" in markdown
    assert line in markdown
    assert line in capsys.readouterr().out.replace("\n", "").replace("tone:split", "tone: split")


def test_what_cannot_be_run_is_one_line(model, root, tmp_path, capsys):
    for options, text in (
        (["--tasks", "pitch"], "no task 'pitch'; tasks: loud, tone"),
        (["--layers", "99"], "no layer '99'"),
        (["--probes", "svm"], "unknown probe 'svm'; probes: linear, knn"),
        (["--jobs", "0"], "--jobs must be at least 1, got 0"),
        (["--suite", "tokens"], "is an encoder; use load_encoder"),
    ):
        with pytest.raises(SystemExit) as exit_info:
            probe(model, root, tmp_path, *options)
        assert exit_info.value.code == 2
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1


def test_tokens_of_a_tokenizer(root, tmp_path, capsys):
    torch.manual_seed(0)
    tokenizer = RandomProjectionTokenizer(codebook_size=16, seed=1)
    source = str(ssl_audio.save(tokenizer, tmp_path / "tokenizer"))
    results = probe(source, root, tmp_path / "out", "--suite", "tokens")
    scores = results["scores"]["trained"]
    assert set(results["scores"]) == {"trained", "untrained"}
    low, high = scores["loud: label_purity"]["ci95"]
    assert low <= scores["loud: label_purity"]["value"] <= high
    assert 0 < scores["loud: pnmi"]["value"] <= 1
    assert 1 < scores["codes: perplexity"]["value"] <= 16
    assert scores["codes: tokens_per_sec"]["value"] == pytest.approx(50, rel=0.3)
    assert "PNMI, %" in capsys.readouterr().out


def test_several_models_side_by_side(root, probed, tmp_path, capsys):
    torch.manual_seed(5)
    other = ssl_audio.save(HubertEncoder(**SIZES), tmp_path / "other")
    probe(str(other), root, tmp_path / "second")
    part = tmp_path / "part"
    probe(str(other), root, part, "--tasks", "tone")
    history = [{"step": s, "scores": probed[0]["scores"]["trained"]} for s in (1, 2)]
    record = {"suite": "folder", "suite_fingerprint": "x", "baselines": {}, "history": history}
    (part / "probes.json").write_text(json.dumps(record))
    os.utime(part / "results.json")
    capsys.readouterr()
    page = tmp_path / "c.html"
    cli.main(
        [
            "compare",
            f"first={probed[1]}",
            str(tmp_path / "second"),
            str(part),
            "--output",
            str(page),
        ]
    )
    text = capsys.readouterr().out
    head = next(line for line in text.splitlines() if "task" in line and "metric" in line)
    assert head.index("log-mel") < head.index("first") < head.index("second") < head.index("part")
    assert "first: mean" in text
    assert "over 1 tasks" in text
    flat = " ".join(text.split())
    assert "part and first differ in clips or tasks: do not compare their scores" in flat
    assert "second and first differ" not in flat
    html = page.read_text()
    assert "Probes during training" in html
    assert "tone: valid score, %" in html


def test_log_mel_of_tasks_that_the_first_model_lacks(probed):
    whole = ProbedRun("whole", {"folder": probed[0]}, None)
    scores = {name: {"tone": rows["tone"]} for name, rows in probed[0]["scores"].items()}
    part = ProbedRun("part", {"folder": probed[0] | {"scores": scores}}, None)
    (compared,) = compare([part, whole])
    assert set(compared["scores"]["log-mel"]) == set(probed[0]["scores"]["log-mel"])


def test_what_cannot_be_compared_is_one_line(probed, tmp_path, capsys):
    folder = str(probed[1])
    (tmp_path / "results.json").write_text('{"loss": 3}')
    for runs, text in (
        ([folder, folder], "two runs are called"),
        ([str(tmp_path / "nothing")], "does not exist; give a run's folder"),
        ([str(tmp_path)], "no probe results here; run ssl-audio probe first"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["compare", *runs])
        assert text in capsys.readouterr().err
