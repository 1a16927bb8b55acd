"""Golden files by pattern."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from torch import Tensor


@dataclass(frozen=True)
class Golden:
    """One golden file: its name without suffix, its metadata and its tensors."""

    name: str
    meta: dict[str, str]
    tensors: dict[str, Tensor]

    def below(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with ``prefix``, without it."""
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }


def load_golden(path: Path) -> Golden:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Golden(path.stem, file.metadata() or {}, tensors)


@pytest.fixture(scope="session")
def golden(reference_dir: Path) -> Callable[[str], list[Golden]]:
    """``golden("spear/mvq_*")``: every file of the pattern, at least one."""

    def load(pattern: str) -> list[Golden]:
        paths = sorted(reference_dir.glob(f"{pattern}.safetensors"))
        assert paths, f"no {pattern}.safetensors in {reference_dir}"
        return [load_golden(path) for path in paths]

    return load


MetricCases = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="session")
def metric_cases(reference_dir: Path) -> MetricCases:
    """``metric_cases("abx")``: the cases of every ``metrics/abx*.json``, at least one."""

    def load(stem: str) -> list[dict[str, Any]]:
        paths = sorted((reference_dir / "metrics").glob(f"{stem}*.json"))
        assert paths, f"no {stem}*.json in {reference_dir / 'metrics'}"
        return [case for path in paths for case in json.loads(path.read_text())["cases"]]

    return load
