"""X-ARES tars of synthesised tones."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ssl_audio import audio

TONES_HZ = {"high": 3000.0, "low": 300.0, "mid": 1000.0}
Member = tuple[str, bytes]


def sound(label: str, seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(round(16_000 * seconds)) / 16_000
    wave = 0.3 * np.sin(2 * np.pi * TONES_HZ[label] * time) + 0.01 * rng.standard_normal(len(time))
    return wave.astype(np.float32)


def members(name: str, wave: np.ndarray, label: Any, folder: Path) -> list[Member]:
    audio.write(folder / "tone.wav", wave, 16_000)
    text = json.dumps(label).encode()
    return [(f"{name}.wav", (folder / "tone.wav").read_bytes()), (f"{name}.json", text)]


def write_tar(path: Path, content: Iterable[Member]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_clips(path: Path, folder: Path, seed: int = 0, key: str = "tone") -> None:
    """Nine clips of three tones."""
    content: list[Member] = []
    for number in range(9):
        label = list(TONES_HZ)[number % 3]
        wave = sound(label, 0.4 + 0.05 * (number % 4), seed + number)
        content += members(f"clip{number}", wave, {key: label}, folder)
    write_tar(path, content)


def write_events(path: Path, folder: Path, count: int, seed: int = 0) -> None:
    """Clips of 1.5 s whose tone changes every half second."""
    rng = np.random.default_rng(seed)
    content: list[Member] = []
    for number in range(count):
        labels = rng.permutation(list(TONES_HZ)).tolist()
        wave = np.concatenate([sound(label, 0.5, seed + number) for label in labels])
        events = [
            {"onset": 0.5 * i, "offset": 0.5 * i + 0.5, "label": label}
            for i, label in enumerate(labels)
        ]
        content += members(f"clip{number}", wave, events, folder)
    write_tar(path, content)


@pytest.fixture
def tars() -> SimpleNamespace:
    """What writes them."""
    return SimpleNamespace(sound=sound, members=members, write=write_tar, clips=write_clips)


@pytest.fixture
def table() -> dict[str, dict[str, Any]]:
    splits = {"train": "train*.tar", "valid": "valid*.tar", "test": "test*.tar"}
    common = {"classes": 3, "zenodo": 1, "batch_size": 4, "epochs": 3}
    return {
        "tones": {"label": "tone", "weight": 3, **splits, **common},
        "folds": {
            "label": "tone",
            "weight": 1,
            "folds": "fold-{}*.tar",
            "fold_names": ["0", "1", "2"],
            "crop_sec": 0.15,
            **common,
        },
        "events": {
            "kind": "frames",
            "label": "label",
            "start": "onset",
            "end": "offset",
            "metric": "segment_f1_micro",
            "segment_sec": 0.1,
            "weight": 2,
            "knn": False,
            **splits,
            "valid": "test*.tar",
            **common,
            "epochs": 10,
        },
    }


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> Path:
    root, folder = tmp_path_factory.mktemp("xares"), tmp_path_factory.mktemp("tones")
    for seed, split in enumerate(("train", "valid", "test")):
        write_clips(root / "tones" / f"{split}-000000.tar", folder, 100 * seed)
        write_clips(root / "folds" / f"fold-{seed}-000000.tar", folder, 100 * seed)
    write_events(root / "events" / "train-000000.tar", folder, 12)
    write_events(root / "events" / "test-000000.tar", folder, 6, seed=50)
    return root


@pytest.fixture
def root(written, tmp_path) -> Path:
    """The three tasks of ``table``, to be spoilt."""
    return Path(shutil.copytree(written, tmp_path / "xares"))
