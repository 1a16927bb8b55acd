from __future__ import annotations

import os

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from ssl_audio.report.events import read_logs


def write(folder, tag, values, picture=None):
    with SummaryWriter(str(folder)) as writer:
        for step, value in values:
            writer.add_scalar(tag, value, step)
        if picture is not None:
            writer.add_image("picture", picture, 1, dataformats="HWC")


def test_each_folder_is_one_log_in_order_of_age(tmp_path):
    write(tmp_path / "student", "loss", [(0, 3.0), (1, 2.0)], np.zeros((4, 4, 3), np.uint8))
    write(tmp_path / "quantizer", "loss", [(0, 9.0)])
    for file in (tmp_path / "quantizer").iterdir():
        os.utime(file, (1, 1))
    logs = read_logs(tmp_path)
    assert [log.name for log in logs] == ["quantizer", "student"]
    assert logs[1].scalars["loss"].steps == [0, 1]
    assert logs[1].scalars["loss"].values == [3.0, 2.0]
    assert logs[1].pictures["picture"].startswith(b"\x89PNG")
    assert read_logs(tmp_path / "nothing") == []


def test_steps_that_a_resumed_run_logs_again_count_once(tmp_path):
    write(tmp_path, "loss", [(1, 1.0), (2, 2.0), (3, 3.0)])
    write(tmp_path, "loss", [(3, 30.0), (4, 40.0)])
    (log,) = read_logs(tmp_path)
    assert log.name == ""
    assert sorted(log.scalars["loss"].steps) == log.scalars["loss"].steps
    assert log.scalars["loss"].steps == [1, 2, 3, 4]


def test_a_file_that_a_killed_run_left_unfinished_is_read_as_far_as_it_goes(tmp_path):
    write(tmp_path, "loss", [(step, float(step)) for step in range(20)])
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-70])
    (log,) = read_logs(tmp_path)
    assert 10 < len(log.scalars["loss"].steps) < 20
