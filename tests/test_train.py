"""The whole program on a tiny corpus: killed, resumed, on two ranks, with bad input."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssl_audio import audio, hub
from ssl_audio.config import CONFIG_DIR, register_resolvers
from ssl_audio.data.token_store import TokenStoreWriter
from ssl_audio.models.spectral import MfccEncoder

ROOT = Path(__file__).resolve().parents[1]
RATE_HZ = 16_000
STEPS = 16
TIMEOUT_SEC = 200
TINY = [
    "experiment=spear_unified",
    "data=folder",
    "probe=none",
    "tokens=online",
    "callbacks.figures=null",
    "model.config.downsampling_factor=[1,2]",
    "model.config.num_encoder_layers=1",
    "model.config.encoder_dim=32",
    "model.config.encoder_unmasked_dim=16",
    "model.config.feedforward_dim=48",
    "model.config.num_heads=2",
    "model.config.cnn_module_kernel=7",
    "model.config.num_mel_bins=16",
    "++model.config.embed_channels=[4,4,8]",
    "task.channel_mask.span=4",
    "++tokenizer.speech.teacher.config.context=[0]",
    "++tokenizer.audio.teacher.config={num_mel_bins:16,num_cqt_bins:12,context:[0]}",
    "tokenizer.speech.num_codebooks=2",
    "tokenizer.audio.num_codebooks=2",
    "tokenizer.speech.train={num_frames:400,batch_frames:64,phase_one_iters:3,phase_two_iters:3}",
    "data.batch_sec=1.5",
    "data.min_sec=0.1",
    "data.max_sec=0.5",
    "data.valid_fraction=0.15",
    f"task.max_steps={STEPS}",
    "task.average={every:2,steps:14}",  # from a step before the first checkpoint on
    "trainer.val_check_interval=4",
    "trainer.log_every_n_steps=1",
    "+trainer.enable_progress_bar=false",
]


def signal_of(index: int, seconds: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    """A tone with noise; every index another pitch."""
    time_sec = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(index).normal(0, 0.05, len(time_sec))
    tone = 0.2 * np.sin(2 * np.pi * (200 + 60 * index) * time_sec)
    return (tone + noise).astype(np.float32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    for domain, kind in (("speech", "wav"), ("audio", "flac")):
        (root / domain).mkdir()
        for index in range(24):
            path = root / domain / f"{index:02d}.{kind}"
            audio.write(path, signal_of(index, 0.25 + 0.03 * (index % 8)), RATE_HZ)
    return root


class Program:
    """``train.py`` with the tiny config, on one corpus and one folder of runs."""

    def __init__(self, corpus: Path, folder: Path) -> None:
        self.corpus, self.folder = corpus, folder
        self.module = _load_train()

    def overrides(self, *more: str) -> list[str]:
        places = [f"paths.runs={self.folder}/runs", f"paths.cache={self.folder}/cache"]
        return [*TINY, f"data.root={self.corpus}", *places, *more]

    def run_dir(self, name: str) -> Path:
        return self.folder / "runs" / name

    def run(self, name: str, *more: str) -> Path:
        """In this process, without loader workers."""
        overrides = self.overrides(f"name={name}", "data.num_workers=0", *more)
        return self.module.run(self.compose(*overrides))

    @staticmethod
    def compose(*overrides: str) -> DictConfig:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            return compose("train", list(overrides))

    def start(self, *arguments: str, torchrun: bool = False) -> subprocess.Popen[str]:
        """A process of its own, with a process group of its own."""
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command = [*(launcher if torchrun else []), str(ROOT / "train.py"), *arguments]
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, *arguments: str, torchrun: bool = False, status: int = 0) -> tuple[str, str]:
        """Standard output and error of a process that ends with ``status``."""
        process = self.start(*arguments, torchrun=torchrun)
        try:
            output, errors = process.communicate(timeout=TIMEOUT_SEC)
        finally:
            _kill_group(process)
        assert process.returncode == status, errors[-3000:]
        return output, errors

    def kill_in_the_middle(self, name: str, *arguments: str) -> None:
        """SIGKILL to every process of the run when the first checkpoint appears."""
        process = self.start(*arguments)
        checkpoint = self.run_dir(name) / "student" / "checkpoints" / "step=4.ckpt"
        deadline = time.monotonic() + TIMEOUT_SEC
        try:
            while not checkpoint.exists():
                assert process.poll() is None, process.communicate()[1][-3000:]
                assert time.monotonic() < deadline
                time.sleep(0.005)
        finally:
            _kill_group(process)
        process.communicate(timeout=TIMEOUT_SEC)
        assert not (self.run_dir(name) / "student" / "done.json").exists()

    def copy_quantizers(self, source: str, target: str) -> None:
        for stage in ("speech_quantizer", "audio_quantizer"):
            shutil.copytree(self.run_dir(source) / stage, self.run_dir(target) / stage)

    def losses(self, name: str, without: int | None = None) -> dict[str, dict[int, float]]:
        """Scalars that the student logged: tag to step to value.

        Args:
            name: of the run.
            without: a step to leave out, such as the one whose checkpoint triggered the kill: it is
                logged and validated after its checkpoint.
        """
        found: dict[str, dict[int, float]] = {}
        files = (self.run_dir(name) / "student" / "tensorboard").glob("events.*")
        for file in sorted(files, key=lambda file: int(file.name.split(".")[3])):
            log = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
            for tag in log.Tags()["scalars"]:
                if tag.startswith(("train/", "valid/")):
                    steps = {e.step: e.value for e in log.Scalars(tag) if e.step != without}
                    found[tag] = found.get(tag, {}) | steps
        return found


def _load_train() -> ModuleType:
    specification = importlib.util.spec_from_file_location("train", ROOT / "train.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    register_resolvers()
    return module


def _kill_group(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def program(corpus, tmp_path_factory) -> Program:
    return Program(corpus, tmp_path_factory.mktemp("program"))


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
    assert written["provenance"]["config"]["task"]["max_steps"] == STEPS
    assert (run_dir / "report.html").is_file()
    losses = program.losses(whole)
    assert len(losses["train/loss"]) == STEPS
    assert list(losses["valid/loss"]) == [3, 7, 11, 15]
    assert hub.content_hash(
        hub.load_encoder(run_dir / "student" / "checkpoints" / f"step={STEPS}.ckpt")
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
    assert len(program.losses("ranks")["train/loss"]) == STEPS


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
    program.module.run(
        program.compose(
            *("experiment=spear_unified", "scale=base", "debug=dry_run", "tokenizer=mvq_demo"),
            *("data=folder", "data.min_sec=0.1", "data.max_sec=0.5", "data.batch_sec=1"),
            *(f"data.root={program.corpus}", f"paths.runs={program.folder}/runs"),
            *("data.valid_fraction=0.1", f"paths.cache={program.folder}/cache", "probe=none"),
        )
    )
    assert "encoder: 93.289 M parameters" in capsys.readouterr().out


def test_a_sweep_gives_a_folder_to_each_of_its_runs(program):
    arguments = program.overrides("data.num_workers=0", "task.max_steps=1")
    program.finish(*arguments, "--multirun", "seed=0,1", "hydra/launcher=basic")
    runs = sorted((program.folder / "runs").glob("spear_unified-demo-*"))
    assert len(runs) == 2
    seeds = [json.loads((run / "student" / "done.json").read_text())["config"] for run in runs]
    assert sorted(config["seed"] for config in seeds) == [0, 1]


# -- bad input ------------------------------------------------------------------------------------


def test_a_missing_folder_is_one_line(program):
    missing = program.folder / "missing"
    arguments = program.overrides("name=missing", f"data.root={missing}")
    _, errors = program.finish(*arguments, status=2)
    assert errors == f"error: data: {missing} is not a folder; correct data.root\n"


def test_an_empty_folder_is_one_line(program, tmp_path):
    with pytest.raises(ValueError, match=rf"^data: {tmp_path} holds no audio file .* data\.root$"):
        program.run("empty", f"data.root={tmp_path}")


def test_a_corpus_without_a_domain_is_one_line(program, corpus):
    with pytest.raises(ValueError, match=r"no audio segment in the train split; .*experiment"):
        program.run("one_domain", "data.root=null", f"data.speech_root={corpus}/speech")


def test_a_teacher_with_another_frame_rate_is_one_line(program, monkeypatch):
    monkeypatch.setattr(MfccEncoder, "frame_rate", 31.0)
    with pytest.raises(ValueError, match="a teacher with another frame rate: 31 Hz codes do not"):
        program.run("rates")
    assert not list(program.run_dir("rates").rglob("*/export"))  # no quantizer was trained in vain


def make_bad_files(folder: Path) -> dict[str, str]:
    """Files that cannot be used, with what is said about them."""
    folder.mkdir()
    whole_file = folder / "whole.flac"
    audio.write(whole_file, signal_of(1, 0.4), RATE_HZ)
    content = whole_file.read_bytes()
    whole_file.unlink()
    (folder / "truncated.flac").write_bytes(content[: len(content) // 2])
    soundfile.write(folder / "no_sample.wav", np.zeros(0), RATE_HZ)
    (folder / "text.wav").write_text("not a sound\n")
    samples = signal_of(2, 0.4)
    samples[100] = np.nan
    soundfile.write(folder / "nan.wav", samples, RATE_HZ, subtype="FLOAT")
    return dict.fromkeys(["truncated.flac", "no_sample.wav", "text.wav", "nan.wav"], "")


def make_odd_files(folder: Path) -> None:
    """Unusual files that can be used, and one that is too short."""
    soundfile.write(folder / "8bit.wav", signal_of(3, 0.4), RATE_HZ, subtype="PCM_U8")
    soundfile.write(folder / "24bit.wav", signal_of(4, 0.4), RATE_HZ, subtype="PCM_24")
    six_channels = np.stack([signal_of(i, 0.4, 96_000) for i in range(6)], axis=1)
    soundfile.write(folder / "six.wav", six_channels, 96_000)
    soundfile.write(folder / "20ms.wav", signal_of(5, 0.02), RATE_HZ)


def test_bad_files_are_left_out_and_listed(program, corpus, tmp_path, capsys):
    root = tmp_path / "corpus"
    shutil.copytree(corpus, root)
    bad = make_bad_files(root / "speech" / "bad")
    make_odd_files(root / "speech")
    run_dir = program.run("bad", f"data.root={root}", "task.max_steps=24")
    assert (run_dir / "student" / "export").is_dir()
    printed = capsys.readouterr().out
    listed = printed[printed.index("files were skipped:") :]
    for name in bad:
        assert f"speech/bad/{name}" in listed
    assert f"{len(bad)} files were skipped:" in printed
    assert "1 clips shorter than 0.1 s were left out" in printed
    for name in ("8bit.wav", "24bit.wav", "six.wav"):
        assert name not in listed
    assert len(program.losses("bad")["train/loss"]) == 24
    assert all(np.isfinite(list(program.losses("bad")["train/loss"].values())))
