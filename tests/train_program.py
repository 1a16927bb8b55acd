"""``train.py experiment=spear_unified`` so small that a run takes seconds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssl_audio import audio

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


def write_corpus(root: Path) -> None:
    for domain, kind in (("speech", "wav"), ("audio", "flac")):
        (root / domain).mkdir(parents=True)
        for index in range(24):
            path = root / domain / f"{index:02d}.{kind}"
            audio.write(path, signal_of(index, 0.25 + 0.03 * (index % 8)), RATE_HZ)


class Program:
    """``train.py`` with the tiny config, on one corpus and one folder of runs."""

    steps = STEPS

    def __init__(self, folder: Path, train_in: Callable[..., Path]) -> None:
        self.corpus, self.folder, self.train_in = folder / "corpus", folder, train_in
        write_corpus(self.corpus)

    def overrides(self, *more: str) -> list[str]:
        places = [f"paths.runs={self.folder}/runs", f"paths.cache={self.folder}/runs/cache"]
        return [*TINY, f"data.root={self.corpus}", *places, *more]

    def run_dir(self, name: str) -> Path:
        return self.folder / "runs" / name

    def run(self, name: str, *more: str) -> Path:
        """In this process, without loader workers."""
        overrides = self.overrides("data.num_workers=0", *more)
        return self.train_in(self.folder / "runs", name, *overrides)

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


def _kill_group(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
