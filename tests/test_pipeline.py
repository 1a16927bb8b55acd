"""Stages in a temporary run folder; the rank is set by hand."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

from ssl_audio import hub, pipeline
from ssl_audio.files import write_json
from ssl_audio.models.spectral import MfccEncoder
from ssl_audio.pipeline import (
    RunContext,
    Stage,
    config_hash,
    provenance,
    run_stages,
    science,
)


class Recorder(Stage):
    """Counts its runs and exports a teacher whose size is part of the config."""

    def __init__(self, num_cepstra: int = 4, fails: bool = False) -> None:
        self.num_cepstra, self.fails = num_cepstra, fails
        self.runs = 0

    def run(self, directory: Path, context: RunContext) -> None:
        self.runs += 1
        if self.fails:
            raise OSError("killed")
        teacher = MfccEncoder(num_mel_bins=8, num_cepstra=self.num_cepstra, context=(0,))
        hub.save(teacher, directory / "export", provenance(directory))


class Reader(Recorder):
    on_change = "rerun"


class EveryRank(Recorder):
    ranks = "all"


@pytest.fixture
def context(tmp_path):
    return RunContext(tmp_path)


@pytest.fixture
def second_rank(monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)


def record(context, name):
    return json.loads((context.stage_dir(name) / "done.json").read_text())


def test_what_is_done_is_skipped(context, capsys):
    config = {"lr": 0.1, "sizes": (1, 2)}
    for _ in range(2):
        stage = Recorder()
        run_stages({"teacher": (stage, config)}, context)
    assert stage.runs == 0
    assert "[teacher] done before, in" in capsys.readouterr().out
    assert record(context, "teacher")["config"] == {"lr": 0.1, "sizes": [1, 2]}
    assert record(context, "teacher")["code_version"].startswith("0.")


def test_runtime_keys_may_change(context):
    first = {"trainer": {"devices": 1}, "data": {"num_workers": 0, "source": {"cache_dir": "a"}}}
    other = {"trainer": {"devices": 8}, "data": {"num_workers": 4, "source": {"cache_dir": "b"}}}
    run_stages({"teacher": (Recorder(), first)}, context)
    stage = Recorder()
    run_stages({"teacher": (stage, other)}, context)
    assert stage.runs == 0
    assert config_hash(first) == config_hash(other)
    assert config_hash(first) != config_hash(first | {"seed": 1})
    assert science([{"device": "cpu", "b": 1, "a": 2}]) == [{"a": 2, "b": 1}]


@pytest.mark.parametrize("fails", [False, True])
def test_another_config_in_the_same_folder_is_refused_with_both_values(context, fails):
    stage = Recorder(fails=fails)
    try:
        run_stages({"student": (stage, {"optimizer": {"lr": 0.1}, "seed": 0})}, context)
    except OSError:
        assert fails
    again = Recorder()
    with pytest.raises(ValueError, match=r"made with optimizer\.lr=0\.1, .* optimizer\.lr=0\.2"):
        run_stages({"student": (again, {"optimizer": {"lr": 0.2}, "seed": 0})}, context)
    assert again.runs == 0


def test_unfinished_work_goes_on(context):
    with pytest.raises(OSError, match="killed"):
        run_stages({"student": (Recorder(fails=True), {})}, context)
    assert not (context.stage_dir("student") / "done.json").exists()
    stage = Recorder()
    run_stages({"student": (stage, {})}, context)
    assert stage.runs == 1
    assert record(context, "student")["seconds"] >= 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_stage_that_only_reads_is_run_again(context, fails):
    try:
        run_stages({"probe": (Reader(fails=fails), {"tasks": ["a"]})}, context)
    except OSError:
        assert fails
    stage = Reader()
    run_stages({"probe": (stage, {"tasks": ["b"]})}, context)
    assert stage.runs == 1
    assert record(context, "probe")["config"] == {"tasks": ["b"]}
    run_stages({"probe": (stage, {"tasks": ["b"]})}, context)
    assert stage.runs == 1


def test_hashes_of_the_parents_are_recorded_and_compared(context):
    teacher = {"teacher": (Recorder(), {})}
    student = {"nested": [{"source": "stage:teacher"}]}
    run_stages({**teacher, "student": (Recorder(), student)}, context)
    export = context.resolve("stage:teacher")
    parents = {"teacher": hub.content_hash(export)}
    assert record(context, "student")["parents"] == parents
    written = json.loads((Path(context.resolve("stage:student")) / "config.json").read_text())
    assert written["provenance"]["parents"] == parents

    hub.save(MfccEncoder(num_mel_bins=8, num_cepstra=5, context=(0,)), export)
    with pytest.raises(ValueError, match=rf"made with teacher={parents['teacher']}, .*teacher="):
        run_stages({**teacher, "student": (Recorder(), student)}, context)


def test_hashes_of_other_runs_exports_are_recorded_and_compared(context, tmp_path):
    def export(num_cepstra):
        teacher = MfccEncoder(num_mel_bins=8, num_cepstra=num_cepstra, context=(0,))
        return hub.content_hash(hub.save(teacher, tmp_path / "other"))

    config = {"task": {"teacher": str(tmp_path / "other")}, "root": str(tmp_path), "name": ""}
    old = export(4)
    run_stages({"student": (Recorder(), config)}, context)
    assert record(context, "student")["exports"] == {str(tmp_path / "other"): old}
    written = json.loads((context.stage_dir("student") / "export" / "config.json").read_text())
    assert written["provenance"]["exports"] == {str(tmp_path / "other"): old}
    new = export(5)
    with pytest.raises(ValueError, match=rf"made with .*other={old}, this run has .*other={new}"):
        run_stages({"student": (Recorder(), config)}, context)


def test_a_parent_without_export_is_named(context):
    with pytest.raises(ValueError, match=r"stage:teacher: no export in .*list that stage before"):
        run_stages({"student": (Recorder(), {"tokenizer": "stage:teacher"})}, context)
    assert context.resolve("hf:some/model") == "hf:some/model"


def test_other_ranks_wait_for_the_first(context, second_rank, monkeypatch):
    monkeypatch.setattr(pipeline._wait_for, "__defaults__", (0.01,))
    stage = Recorder()
    waiting = threading.Thread(
        target=run_stages, args=({"teacher": (stage, {"seed": 3})}, context), daemon=True
    )
    waiting.start()
    directory = context.stage_dir("teacher")
    while not directory.exists():
        pass
    other_work = {"config": {"seed": 2}, "parents": {}}  # of a run before, about to be redone
    write_json(directory / "done.json", other_work)
    waiting.join(0.1)
    assert waiting.is_alive()
    write_json(directory / "done.json", {"config": {"seed": 3}, "parents": {}})
    waiting.join(5)
    assert not waiting.is_alive()
    assert stage.runs == 0
    assert not (directory / "started.json").exists()


def test_waiting_ends_with_the_first_rank(context, second_rank, monkeypatch):
    parents = iter([100, 100, 1])
    monkeypatch.setattr(pipeline.os, "getppid", lambda: next(parents))
    monkeypatch.setattr(pipeline._wait_for, "__defaults__", (0.01,))
    with pytest.raises(RuntimeError, match="rank 0 ended before it had written"):
        run_stages({"teacher": (Recorder(), {})}, context)


def test_a_stage_for_all_ranks_runs_on_all_and_ends_with_the_record_of_the_first(
    context, second_rank, monkeypatch
):
    monkeypatch.setattr(pipeline._wait_for, "__defaults__", (0.01,))
    stage = EveryRank()
    directory = context.stage_dir("student")
    directory.mkdir()
    started = {"config": {}, "parents": {}}
    write_json(directory / "started.json", started)  # by rank 0
    running = threading.Thread(
        target=run_stages, args=({"student": (stage, {})}, context), daemon=True
    )
    running.start()
    running.join(0.2)
    assert stage.runs == 1
    assert running.is_alive()  # rank 0 has trained too, but is still exporting
    assert not (directory / "done.json").exists()
    write_json(directory / "done.json", started)
    running.join(5)
    assert not running.is_alive()


def test_json_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "done.json"
    write_json(path, {"a": 1})

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"a": torch.zeros(3)})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
