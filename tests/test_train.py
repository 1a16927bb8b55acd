"""The whole program on a tiny corpus: killed, resumed, on two ranks, without work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ssl_audio import hub
from ssl_audio.data.token_store import TokenStoreWriter


@pytest.fixture(scope="module")
def whole(program) -> str:
    """Name of an uninterrupted run with online tokens and two workers."""
    arguments = program.overrides("name=whole", "data.num_workers=2")
    output, _ = program.finish(*arguments)
    assert f"encoder:    {program.run_dir('whole') / 'student' / 'export'}" in output
    return "whole"


def state(directory: Path) -> dict[str, tuple[int, int]]:
    """Modification time and size of every file."""
    stats = {str(file): file.stat() for file in directory.rglob("*") if file.is_file()}
    return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in stats.items()}


def test_a_run_leaves_an_encoder_with_its_history(program, whole):
    run_dir = program.run_dir(whole)
    encoder = hub.load_encoder(run_dir / "student" / "export")
    assert encoder.kind == "zipformer"
    written = json.loads((run_dir / "student" / "export" / "config.json").read_text())
    parents = written["provenance"]["parents"]
    assert parents.keys() == {"speech_quantizer", "audio_quantizer"}
    for name, value in parents.items():
        assert hub.content_hash(run_dir / name / "export") == value
    assert written["provenance"]["config"]["task"]["max_steps"] == program.steps
    assert (run_dir / "report.html").is_file()
    losses = program.losses(whole)
    assert len(losses["train/loss"]) == program.steps
    assert list(losses["valid/loss"]) == [3, 7, 11, 15]
    assert hub.content_hash(
        hub.load_encoder(run_dir / "student" / "checkpoints" / f"step={program.steps}.ckpt")
    ) == hub.content_hash(encoder)


def test_a_killed_run_goes_on_exactly(program, whole):
    program.copy_quantizers(whole, "killed")
    arguments = program.overrides("name=killed", "data.num_workers=2")
    program.kill_in_the_middle("killed", *arguments)
    output, _ = program.finish(*arguments)
    assert "resuming from" in output
    assert program.losses("killed", without=3) == program.losses(whole, without=3)
    exports = [program.run_dir(name) / "student" / "export" for name in ("killed", whole)]
    assert hub.content_hash(exports[0]) == hub.content_hash(exports[1])


@pytest.mark.ddp
def test_two_ranks_go_on_exactly_whatever_started_them(program, whole):
    """Uninterrupted under torchrun; killed and resumed under Lightning's launcher."""
    settings = ("trainer=ddp_cpu", "data.num_workers=2")
    program.copy_quantizers(whole, "ranks")
    program.finish(*program.overrides("name=ranks", *settings), torchrun=True)

    program.copy_quantizers(whole, "ranks_killed")
    arguments = program.overrides("name=ranks_killed", *settings)
    program.kill_in_the_middle("ranks_killed", *arguments)
    output, _ = program.finish(*arguments)
    assert "resuming from" in output
    assert program.losses("ranks_killed", without=3) == program.losses("ranks", without=3)
    assert len(program.losses("ranks")["train/loss"]) == program.steps


def test_a_finished_run_is_left_alone(program, whole, capsys):
    run_dir = program.run_dir(whole)
    stages = [run_dir / name for name in ("speech_quantizer", "audio_quantizer", "student")]
    before = [state(stage) for stage in stages]
    program.run(whole)
    assert [state(stage) for stage in stages] == before
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert [line.split(" in ")[0] for line in lines[:3]] == [
        f"[{stage.name}] done before," for stage in stages
    ]
    assert [line.split(":")[0] for line in lines[3:]] == [
        "run folder",
        "report",
        "curves",
        "encoder",
    ]


def test_another_setting_in_the_same_folder_is_refused(program, whole):
    with pytest.raises(ValueError, match=r"made with task\.optimizer\.lr=0\.045, .* has .*lr=1:"):
        program.run(whole, "task.optimizer.lr=1")


def test_stored_tokens_train_like_online_ones_and_extraction_goes_on(program, whole, monkeypatch):
    program.copy_quantizers(whole, "stored")
    write, stores = TokenStoreWriter.write, []

    def killed_at_the_second_store(writer, *arguments):
        stores.append(writer.directory)
        if len(stores) == 2:
            raise KeyboardInterrupt
        write(writer, *arguments)

    monkeypatch.setattr(TokenStoreWriter, "write", killed_at_the_second_store)
    with pytest.raises(KeyboardInterrupt):
        program.run("stored", "tokens=stored")
    monkeypatch.undo()
    tokens = program.run_dir("stored") / "tokens"
    assert not (tokens / "done.json").exists()
    written = state(tokens / "speech")
    assert any("shard" in name for name in written)

    program.run("stored", "tokens=stored")
    assert state(tokens / "speech") == written
    stored, online = program.losses("stored"), program.losses(whole)
    assert stored.keys() == online.keys()
    for tag, steps in online.items():
        assert stored[tag] == pytest.approx(steps, rel=1e-6), tag


def test_tokens_of_another_teacher_are_refused(program, whole):
    """Here the export was replaced after its tokens had been extracted."""
    program.copy_quantizers(whole, "replaced")
    dry = ("tokens=stored", "task.max_steps=1")
    program.run("replaced", *dry)
    run_dir = program.run_dir("replaced")
    shutil.rmtree(run_dir / "student")
    header = run_dir / "tokens" / "speech" / "header.json"
    content = json.loads(header.read_text())
    was = content["teacher_hash"]
    header.write_text(json.dumps(content | {"teacher_hash": "another"}))
    with pytest.raises(ValueError, match=rf"made with teacher_hash another instead of {was}"):
        program.run("replaced", *dry)


def test_a_dry_run_takes_one_step_and_is_never_taken_for_work(program, capsys):
    for _ in range(2):
        run_dir = program.run("dry", "debug=dry_run", "data.batch_sec=1.5", "data.max_sec=0.5")
        output = capsys.readouterr().out
        assert "done before" not in output
        assert "[student]" in output
    assert not list(run_dir.rglob("*.ckpt"))


def test_a_dry_run_builds_the_published_architecture(program, capsys):
    program.train_in(
        *(program.folder / "runs", "published"),
        *("experiment=spear_unified", "scale=base", "debug=dry_run", "tokenizer=mvq_demo"),
        *("data=folder", "data.min_sec=0.1", "data.max_sec=0.5", "data.batch_sec=1"),
        *(f"data.root={program.corpus}", "data.valid_fraction=0.1", "probe=none"),
    )
    assert "encoder: 93.289 M parameters" in capsys.readouterr().out


def test_a_sweep_gives_a_folder_to_each_of_its_runs(program):
    arguments = program.overrides("data.num_workers=0", "task.max_steps=1")
    program.finish(*arguments, "--multirun", "seed=0,1", "hydra/launcher=basic")
    runs = sorted((program.folder / "runs").glob("spear_unified-demo-*"))
    assert len(runs) == 2
    seeds = [json.loads((run / "student" / "done.json").read_text())["config"] for run in runs]
    assert sorted(config["seed"] for config in seeds) == [0, 1]
