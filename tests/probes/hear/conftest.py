"""HEAR task folders of synthesised tones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_audio import audio

TONES_HZ = {"high": 3000.0, "low": 300.0, "mid": 1000.0}
QUICK = {"task_specific_param_grid": {"max_epochs": [9], "check_val_every_n_epoch": [3]}}


def tone(label: str | None, seconds: float, rng: np.random.Generator, rate: int) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * TONES_HZ[label] * time) if label else 0 * time
    return (wave + 0.003 * rng.standard_normal(len(time))).astype(np.float32)


def write_task(directory: Path, metadata: dict[str, Any], splits: dict[str, dict]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "task_metadata.json").write_text(json.dumps(metadata))
    rows = "".join(f"{i},{label}\n" for i, label in enumerate(TONES_HZ))
    (directory / "labelvocabulary.csv").write_text("idx,label\n" + rows)
    for name, split in splits.items():
        (directory / f"{name}.json").write_text(json.dumps(split))


@pytest.fixture
def scene_task() -> Callable[..., Path]:
    """Which of three tones, ``folds`` (or train, valid, test) of ``count`` clips each."""

    def build(root: Path, count: int = 12, folds: int = 0, rate: int = 16_000) -> Path:
        rng = np.random.default_rng(1)
        mode = "new_split_kfold" if folds else "trainvaltest"
        names = [f"fold{i:02d}" for i in range(folds)] or ["train", "valid", "test"]
        directory = root / f"tones-v1-{mode}"
        splits: dict[str, dict] = {}
        for split in names:
            splits[split] = {}
            for number in range(count):
                label = list(TONES_HZ)[number % 3]
                path = directory / str(rate) / split / f"{number}.wav"
                audio.write(path, tone(label, 0.3 + 0.05 * (number % 4), rng, rate), rate)
                splits[split][path.name] = [label]
        metadata = {
            "task_name": "tones",
            "embedding_type": "scene",
            "prediction_type": "multiclass",
            "split_mode": mode,
            "sample_duration": 0.4,
            "splits": names,
            "evaluation": ["top1_acc", "mAP"],
            "evaluation_params": QUICK,
        }
        write_task(directory, metadata, splits)
        return directory

    return build


@pytest.fixture
def event_task() -> Callable[..., Path]:
    """Tones that begin and end, with times in ms."""

    def build(root: Path, count: int = 2) -> Path:
        rng = np.random.default_rng(2)
        directory = root / "beeps-v1-full"
        splits: dict[str, dict] = {}
        for split in ("train", "valid", "test"):
            splits[split] = {}
            for number in range(count):
                waves, events, start = [], [], 0
                for label in (None, "low", None, "high", None, "mid", None):
                    length = int(rng.integers(200, 400))
                    waves.append(tone(label, length / 1000, rng, 16_000))
                    if label:
                        events.append({"label": label, "start": start, "end": start + length})
                    start += length
                path = directory / "16000" / split / f"{number}.wav"
                audio.write(path, np.concatenate(waves), 16_000)
                splits[split][path.name] = events
        metadata = {
            "embedding_type": "event",
            "prediction_type": "multilabel",
            "split_mode": "trainvaltest",
            "evaluation": ["event_onset_200ms_fms", "segment_1s_er"],
            "evaluation_params": {
                "event_postprocessing_grid": {"median_filter_ms": [60], "min_duration": [60, 125]},
                "task_specific_param_grid": {"max_epochs": [8], "check_val_every_n_epoch": [4]},
            },
        }
        write_task(directory, metadata, splits)
        return directory

    return build
