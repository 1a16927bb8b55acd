"""Shared fixtures: where the golden values and the recorded audio lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
