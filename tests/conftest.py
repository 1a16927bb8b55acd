"""Shared fixtures: golden values, recorded audio, small encoders, whole runs of ``train.py``, two
real ranks."""

from __future__ import annotations

import importlib.util
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ssl_audio.models import BeatsEncoder, HubertEncoder, Zipformer
from ssl_audio.models.encoder import Encoder

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    BeatsEncoder: {
        "embed_dim": 8,
        "encoder_layers": 2,
        "encoder_embed_dim": 16,
        "encoder_ffn_embed_dim": 16,
        "encoder_attention_heads": 2,
        "conv_pos": 4,
        "conv_pos_groups": 2,
    },
    HubertEncoder: {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "conv_dim": [8] * 7,
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
    },
    Zipformer: {
        "downsampling_factor": [1, 2],
        "num_encoder_layers": 1,
        "encoder_dim": 32,
        "encoder_unmasked_dim": 16,
        "feedforward_dim": 48,
        "num_heads": 2,
        "cnn_module_kernel": 7,
        "embed_channels": [4, 4, 8],
    },
}


def shared_dir(variable: str, default: Path) -> Path:
    """The folder named by ``variable``; absent means skip on a laptop and failure in CI."""
    path = Path(os.environ.get(variable, default))
    if not path.is_dir():
        message = f"{path} does not exist; set {variable} to the folder with the shared data"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Golden inputs and outputs of the original implementations."""
    return shared_dir("SSL_AUDIO_REFERENCE", ROOT.parent / "shared" / "reference")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Recorded audio with probe tasks."""
    return shared_dir("SSL_AUDIO_DATA", ROOT.parent / "shared" / "data")


@pytest.fixture(scope="session", params=SMALL, ids=lambda kind: kind.kind)
def padding_exact(request) -> Encoder:
    """One of the encoders whose frames do not see the batch mates."""
    torch.manual_seed(0)
    return request.param(**SMALL[request.param]).eval()


@pytest.fixture(scope="session")
def bursts() -> SimpleNamespace:
    """``burst_parts.py``: syllables that are easy to hear."""
    return SimpleNamespace(**runpy.run_path(str(ROOT / "tests" / "burst_parts.py")))


@pytest.fixture(scope="session")
def on_two_ranks() -> Callable[..., str]:
    """``on_two_ranks(program, *arguments)``: the script as two gloo ranks; their standard error."""

    def run(program: Path, *arguments: Path) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        environment = {**os.environ, **group, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        ranks = [
            subprocess.Popen(
                [sys.executable, str(program), *map(str, arguments)],
                env={**environment, "RANK": rank, "LOCAL_RANK": rank},
                stderr=subprocess.PIPE,
            )
            for rank in ("0", "1")
        ]
        printed = []
        try:
            for process in ranks:
                printed.append(process.communicate(timeout=300)[1].decode())
                assert process.returncode == 0, printed[-1][-3000:]
        finally:
            for process in ranks:
                process.kill()
        return "".join(printed)

    return run


@pytest.fixture(scope="session")
def train_in() -> Callable[..., Path]:
    """``train_in(folder, name, *overrides)``: ``train.py`` in this process; the run's folder."""
    from hydra import compose, initialize_config_dir

    from ssl_audio.config import CONFIG_DIR, register_resolvers

    specification = importlib.util.spec_from_file_location("train", ROOT / "train.py")
    assert specification is not None
    assert specification.loader is not None
    train = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(train)
    register_resolvers()

    def run(folder: Path, name: str, *overrides: str) -> Path:
        places = [f"paths.runs={folder}", f"paths.cache={folder}/cache", f"name={name}"]
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            config = compose("train", [*overrides, *places])
        return train.run(config)

    return run


@pytest.fixture(scope="session")
def program(train_in, tmp_path_factory):
    """``Program`` of ``train_program.py`` in a folder of its own."""
    parts = runpy.run_path(str(ROOT / "tests" / "train_program.py"))
    return parts["Program"](tmp_path_factory.mktemp("program"), train_in)


@pytest.fixture
def killed_at(monkeypatch) -> Callable[..., object]:
    """``with killed_at(task, step):`` the process ends in that training step of the task."""

    class Killed(Exception):
        pass

    @contextmanager
    def install(task: type, step: int) -> Iterator[None]:
        whole = task.training_step  # type: ignore[attr-defined]

        def training_step(self, batch, batch_idx):
            if self.global_step == step:
                raise Killed
            return whole(self, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(task, "training_step", training_step)
            with pytest.raises(Killed):
                yield

    return install


@pytest.fixture(scope="session")
def logged() -> Callable[[Path], dict[str, dict[int, float]]]:
    """``logged(stage)``: tag to step to value; of a step logged twice the later value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read(stage: Path) -> dict[str, dict[int, float]]:
        found: dict[str, dict[int, float]] = {}
        files = stage.glob("tensorboard/events.*")
        for file in sorted(files, key=lambda path: path.stat().st_mtime):
            log = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()
            for tag in log.Tags()["scalars"]:
                if tag.startswith("train/"):
                    found.setdefault(tag, {}).update({e.step: e.value for e in log.Scalars(tag)})
        return found

    return read
