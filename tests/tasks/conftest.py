"""Tiny fits, in this process and on two ranks."""

from __future__ import annotations

import runpy
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
def two_ranks(on_two_ranks, tmp_path_factory) -> list[dict]:
    """What each rank of ``spear_program`` found."""
    output = tmp_path_factory.mktemp("two_ranks")
    on_two_ranks(PROGRAM, output)
    return [torch.load(output / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="session")
def hubert_parts() -> SimpleNamespace:
    """What ``hubert_parts`` defines."""
    return SimpleNamespace(**runpy.run_path(str(PROGRAM.with_name("hubert_parts.py"))))
