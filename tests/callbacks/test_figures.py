from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from ssl_audio.batch import IGNORE_CODE
from ssl_audio.callbacks.figures import TrainingFigures, _runs, training_pictures
from ssl_audio.report.events import read_logs


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    codes = torch.randint(0, 16, (30, 12))
    codes[25:] = IGNORE_CODE
    mask = torch.zeros(40, dtype=torch.bool)
    mask[5:15] = True
    return {
        "features": torch.randn(40, 20),
        "mask": mask,
        "codes": {"speech": codes},
        "predicted": {"speech": torch.randint(0, 16, (30, 12))},
        "usage": {"speech": torch.randint(0, 9, (12, 16))},
    }


def test_one_picture_for_each_thing(tensors):
    pictures = dict(training_pictures(tensors))
    assert list(pictures) == [
        "figures/spectrogram",
        "figures/codes_speech",
        "figures/usage_speech",
    ]
    for picture in pictures.values():
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
        assert picture.std() > 5


def test_the_mask_is_visible_where_it_lies(tensors):
    with_mask = dict(training_pictures(tensors))["figures/spectrogram"].astype(int)
    tensors["mask"] = torch.zeros_like(tensors["mask"])
    without = dict(training_pictures(tensors))["figures/spectrogram"].astype(int)
    changed = np.abs(with_mask - without).sum(2)[60:-80] > 0  # below the title
    columns = np.flatnonzero(changed.mean(0) > 0.5)
    middle = columns.mean() / changed.shape[1]
    assert 0.2 < middle < 0.35  # frames 5 to 15 of 40
    assert 0.15 < len(columns) / changed.shape[1] < 0.3


def test_what_is_absent_is_not_drawn(tensors):
    assert list(training_pictures({})) == []
    del tensors["predicted"], tensors["mask"]
    assert "figures/codes_speech" not in dict(training_pictures(tensors))
    tensors["codes"] = {"speech": torch.full((5, 2), IGNORE_CODE)}
    tensors["predicted"] = {"speech": torch.zeros(5, 2, dtype=torch.int64)}
    assert "figures/codes_speech" in dict(training_pictures(tensors))  # nothing known: no crash


def test_runs():
    assert _runs(np.array([True, True, False, True])) == [(0, 2), (3, 4)]
    assert _runs(np.array([False])) == []


def test_pictures_reach_tensorboard_once_per_step(tensors, tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    calls = []
    task = SimpleNamespace(last_figures=lambda: calls.append(1) or tensors)
    figures = TrainingFigures(every_n_steps=3)
    for step in (0, 1, 1, 2, 3, 3, 4):
        trainer = SimpleNamespace(global_step=step, is_global_zero=True, loggers=[logger])
        figures.on_train_batch_end(trainer, task, None, None, 0)
    assert len(calls) == 2
    other = SimpleNamespace(global_step=6, is_global_zero=False, loggers=[logger])
    figures.on_train_batch_end(other, task, None, None, 0)
    silent = SimpleNamespace(global_step=9, is_global_zero=True, loggers=[])
    figures.on_train_batch_end(silent, task, None, None, 0)
    assert len(calls) == 2
    logger.finalize("success")
    (log,) = read_logs(tmp_path)
    assert set(log.pictures) == set(dict(training_pictures(tensors)))
    assert log.pictures["figures/usage_speech"].startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        TrainingFigures(0)
