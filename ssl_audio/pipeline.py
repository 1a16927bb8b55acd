"""An experiment is a list of stages, run in order: skip what is done, resume what is not.

A stage owns one folder of the run. When it has finished, ``done.json`` there records the
configuration that decided its result and the hashes of the exports that it was built on. A second
run of the same command finds the record and goes on behind it; a run with another configuration in
the same folder is refused, with both values in the message.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

from lightning.pytorch.utilities import rank_zero_only

from ssl_audio import hub
from ssl_audio.files import write_json

STAGE_PREFIX = "stage:"  # "stage:NAME" in a config is the export of the earlier stage NAME
RUNTIME_KEYS = frozenset(
    # Where and how a run computes, not what. They may change between a run and its continuation.
    {"trainer", "callbacks", "logger", "num_workers", "cache_dir", "device", "checkpoint_every"}
)


@dataclass(frozen=True, slots=True)
class RunContext:
    """What a stage may know about the run around it."""

    run_dir: Path

    def stage_dir(self, name: str) -> Path:
        return self.run_dir / name

    def resolve(self, source: str) -> str:
        """``stage:NAME`` becomes the folder of that stage's export; other sources stay."""
        if not source.startswith(STAGE_PREFIX):
            return source
        export = self.stage_dir(source.removeprefix(STAGE_PREFIX)) / "export"
        if not export.is_dir():
            raise ValueError(f"{source}: no export in {export}; list that stage before this one")
        return str(export)


class Stage(ABC):
    """One step of an experiment, constructed from its own section of the config.

    Attributes:
        ranks: which run it. ``first``: rank 0, the others wait for its record. ``shared``: every
            rank does a part, rank 0 returns when all parts are there, the others wait for its
            record. ``all``: every rank, in step; the others then wait for rank 0's record too.
        on_change: what a record with another configuration means: ``refuse`` protects work that
            took long, ``rerun`` is for stages that only read.
    """

    ranks: ClassVar[Literal["first", "shared", "all"]] = "first"
    on_change: ClassVar[Literal["refuse", "rerun"]] = "refuse"

    @abstractmethod
    def run(self, directory: Path, context: RunContext) -> None:
        """Do the work in ``directory``, continuing from whatever lies there."""


def science(config: Any) -> Any:
    """``config`` without the keys that do not decide the result."""
    if isinstance(config, Mapping):
        return {key: science(config[key]) for key in sorted(config) if key not in RUNTIME_KEYS}
    if isinstance(config, (list, tuple)):
        return [science(item) for item in config]
    return config


def config_hash(config: Any) -> str:
    """Eight hex digits that name a configuration, blind to its runtime keys."""
    text = json.dumps(science(config), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def code_version() -> str:
    """Package version, with the commit when the package runs from a git checkout."""
    released = version("ssl-audio")
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return released
    found = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{released}+{found.stdout.strip()}" if found.returncode == 0 else released


def run_stages(stages: Mapping[str, tuple[Stage, dict[str, Any]]], context: RunContext) -> None:
    """Run ``{name: (stage, its resolved config)}`` in order.

    Raises:
        ValueError: a stage's folder holds the result of another configuration.
    """
    for name, (stage, config) in stages.items():
        directory = context.stage_dir(name)
        record = {
            "config": science(config),
            "parents": {parent: _export_hash(context, parent) for parent in parents(config)},
            "exports": {folder: hub.content_hash(folder) for folder in _exports(config)},
        }
        if _is_done(directory, record, stage.on_change):
            rank_zero_print(f"[{name}] done before, in {directory}")
            continue
        directory.mkdir(parents=True, exist_ok=True)
        rank_zero_print(f"[{name}] {directory}")
        is_first = global_rank() == 0
        started = time.monotonic()
        if is_first or stage.ranks != "first":
            _claim(directory, record)
            stage.run(directory, context)
        if is_first:
            seconds = round(time.monotonic() - started, 1)
            finished = {**record, "code_version": code_version(), "seconds": seconds}
            write_json(directory / "done.json", finished)
        else:  # after a stage of all ranks too: rank 0 still exports what the next stage opens
            _wait_for(directory / "done.json", record)


def global_rank() -> int:
    """Of this process, also before there is a process group."""
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    return rank


@rank_zero_only
def rank_zero_print(message: str) -> None:
    print(message, flush=True)


def provenance(directory: Path) -> dict[str, Any]:
    """What an export of the stage in ``directory`` came from: config, parent hashes, code."""
    return {**json.loads((directory / "started.json").read_text()), "code_version": code_version()}


def parents(config: Any) -> list[str]:
    """Stages that a section refers to as ``stage:NAME``."""
    found = [value for value in _strings(config) if value.startswith(STAGE_PREFIX)]
    return [value.removeprefix(STAGE_PREFIX) for value in found]


def _exports(config: Any) -> list[str]:
    """Exports that a section refers to by their folders, such as a teacher of another run."""
    files = (hub.CONFIG_FILE, hub.WEIGHTS_FILE)
    return [
        value
        for value in _strings(config)
        if value and all(os.path.isfile(os.path.join(value, name)) for name in files)
    ]


def _strings(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        for value in config.values():
            yield from _strings(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _strings(value)
    elif isinstance(config, str):
        yield config


def _export_hash(context: RunContext, parent: str) -> str:
    return hub.content_hash(context.resolve(f"{STAGE_PREFIX}{parent}"))


def _claim(directory: Path, record: dict[str, Any]) -> None:
    """Refuse to continue half-done work of another configuration."""
    started = directory / "started.json"
    if started.exists():
        _compare(json.loads(started.read_text()), record, directory)
    elif global_rank() == 0:
        write_json(started, record)


def _is_done(directory: Path, record: dict[str, Any], on_change: str) -> bool:
    path = directory / "done.json"
    if not path.exists():
        if on_change == "rerun" and global_rank() == 0:
            (directory / "started.json").unlink(missing_ok=True)
        return False
    try:
        _compare(json.loads(path.read_text()), record, directory)
    except ValueError:
        if on_change == "refuse":
            raise
        if global_rank() == 0:
            path.unlink(missing_ok=True)
            (directory / "started.json").unlink(missing_ok=True)
        return False
    return True


def _compare(found: dict[str, Any], wanted: dict[str, Any], directory: Path) -> None:
    for key, old, new in _changes(found, wanted):
        raise ValueError(
            f"{directory} was made with {key}={old}, this run has {key}={new}: "
            f"choose another name=…, or delete that folder to make it anew"
        )


def _changes(found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    # Through JSON and back, so that tuples and numbers compare as they were written.
    wanted = json.loads(json.dumps(wanted, default=str))
    for section in ("config", "parents", "exports"):
        yield from _differences(found.get(section, wanted[section]), wanted[section])


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            path = f"{prefix}.{key}" if prefix else key
            yield from _differences(old.get(key), new.get(key), path)
    elif old != new:
        yield prefix, old, new


def _wait_for(path: Path, record: dict[str, Any], poll_sec: float = 1.0) -> None:
    """Wait until rank 0 has finished; leave when the process that started us is gone."""
    launcher = os.getppid()
    while True:
        if path.exists() and not list(_changes(json.loads(path.read_text()), record)):
            return
        if os.getppid() != launcher:
            raise RuntimeError(f"rank 0 ended before it had written {path}")
        time.sleep(poll_sec)
