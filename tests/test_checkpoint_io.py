"""Checkpoints on a disk that fills up, and by a process that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from ssl_audio.checkpoint_io import AtomicCheckpointIO, latest_checkpoint

CHECKPOINT = {"weight": torch.arange(100_000.0), "step": 7, "names": ["a", "b"]}


@pytest.fixture
def former(tmp_path):
    """A good checkpoint that every test tries to replace in vain."""
    path = tmp_path / "checkpoints" / "step=7.ckpt"
    AtomicCheckpointIO().save_checkpoint(CHECKPOINT, path)
    return path


def assert_untouched(path: Path) -> None:
    loaded = AtomicCheckpointIO().load_checkpoint(path)
    assert torch.equal(loaded["weight"], CHECKPOINT["weight"])
    assert (loaded["step"], loaded["names"]) == (7, ["a", "b"])
    assert [file.name for file in path.parent.iterdir() if file.suffix != ".tmp"] == [path.name]


def run_python(program: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_file_that_cannot_grow_leaves_the_former_checkpoint(former):
    """RLIMIT_FSIZE stands for the full disk: write() fails in the middle of the file."""
    program = """
        import resource, signal, sys, torch
        from ssl_audio.checkpoint_io import AtomicCheckpointIO
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            AtomicCheckpointIO().save_checkpoint({"weight": torch.zeros(100_000)}, sys.argv[1])
        except ValueError as error:
            print(error)
    """
    finished = run_python(program, former)
    assert finished.returncode == 0, finished.stderr
    (line,) = finished.stdout.splitlines()
    assert line.startswith(f"{former} could not be written (")
    assert "File too large" in line
    assert line.endswith("free some space and run the same command to go on")
    assert_untouched(former)
    assert list(former.parent.iterdir()) == [former]


def test_a_full_disk_leaves_the_former_checkpoint(former, monkeypatch):
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ValueError, match=r"could not be written \(.*No space left on device\)"):
        AtomicCheckpointIO().save_checkpoint({"weight": torch.zeros(10)}, former)
    assert_untouched(former)
    assert list(former.parent.iterdir()) == [former]


def test_a_kill_while_writing_leaves_the_former_checkpoint(former):
    program = """
        import os, signal, sys, torch
        from ssl_audio.checkpoint_io import AtomicCheckpointIO
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        AtomicCheckpointIO().save_checkpoint({"weight": torch.zeros(100_000)}, sys.argv[1])
    """
    finished = run_python(program, former)
    assert finished.returncode == -signal.SIGKILL
    assert_untouched(former)
    assert latest_checkpoint(former.parent) == former
    AtomicCheckpointIO().save_checkpoint(CHECKPOINT, former)  # what the killed one left goes
    assert list(former.parent.iterdir()) == [former]


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = tmp_path / "step=1.ckpt"
    torch.save({"bomb": Bomb()}, path)
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
    assert not (tmp_path / "exploded").exists()


def test_the_latest_checkpoint_has_the_most_steps(tmp_path):
    assert latest_checkpoint(tmp_path / "missing") is None
    for name in ("step=9.ckpt", "step=100.ckpt", ".step=200.ckpt.1.tmp", "last.ckpt"):
        (tmp_path / name).touch()
    assert latest_checkpoint(tmp_path) == tmp_path / "step=100.ckpt"
    assert not (tmp_path / ".step=200.ckpt.1.tmp").exists()
