"""Tiny fits, in this process and on two ranks."""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

PROGRAM = Path(__file__).with_name("spear_program.py")


@pytest.fixture(scope="session")
def program() -> SimpleNamespace:
    """What ``spear_program`` defines."""
    return SimpleNamespace(**runpy.run_path(str(PROGRAM)))


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory) -> list[dict]:
    """What each rank of ``spear_program`` found."""
    output = tmp_path_factory.mktemp("two_ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(PROGRAM), str(output)]
    ranks = [
        subprocess.Popen(
            command, env=environment | {"LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    try:
        for process in ranks:
            _, errors = process.communicate(timeout=180)
            assert process.returncode == 0, errors.decode()[-3000:]
    finally:
        for process in ranks:
            process.kill()
    return [torch.load(output / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="session")
def hubert_parts() -> SimpleNamespace:
    """What ``hubert_parts`` defines."""
    return SimpleNamespace(**runpy.run_path(str(PROGRAM.with_name("hubert_parts.py"))))
