"""What all suites share: finished work read from disk, and failures that leave the others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from ssl_audio import __version__
from ssl_audio.files import write_json
from ssl_audio.probes.progress import with_bar

VERSIONS = {"ssl_audio": __version__, "torch": torch.__version__}

T = TypeVar("T")
Task = TypeVar("Task")
Source = TypeVar("Source")
Record = dict[str, Any]
Records = dict[str, Record]  # by row of the table


def stored(folder: Path | None, name: str, facts: object, make: Callable[[], T]) -> T:
    """What ``make`` gives, from the file of an equal call if there is one.

    Args:
        folder: where the files are; None keeps nothing.
        name: begins the file's name.
        facts: all that decides the result; their ``repr`` names the file.
        make: gives what JSON can hold.
    """
    path = None if folder is None else stored_path(folder, f"{name}-", facts)
    found = read_stored(path)
    if found is None:
        found = plain(make())
        if path is not None:
            write_json(path, found)
    return found


def stored_path(folder: Path, prefix: str, facts: object) -> Path:
    return folder / f"{prefix}{digest_of(facts)[:24]}.json"


def digest_of(facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def read_stored(path: Path | None) -> Any:
    """What the file holds; None if there is none, or it is damaged."""
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def plain(value: Any) -> Any:
    """Tuples to lists, so that fresh results equal those read from JSON."""
    return json.loads(json.dumps(value))


def score_tasks(
    names: Sequence[str],
    sources: Mapping[str, Source],
    opened: Callable[[str], Task],
    scored: Callable[[str, Task, str], Records],
    title: str = "",
) -> dict[str, Any]:
    """Scores of every source on every task; one that fails becomes a warning, the others go on.

    Args:
        names: of the tasks.
        sources: what is scored, by name.
        opened: a task's name to its data.
        scored: name and data of a task and name of a source to the rows of the table; ``warnings``
            of a row are collected.
        title: of the progress bar; empty shows none.

    Returns:
        ``scores`` (source to row to record), ``failed`` (tasks without any) and ``warnings``.
    """
    scores: dict[str, Records] = {source: {} for source in sources}
    failed: list[str] = []
    warnings: list[str] = []
    for name in with_bar(names, title):
        reasons: dict[str, str] = {}
        try:
            task = opened(name)
        except Exception as error:
            reasons = dict.fromkeys(sources, _reason(error))
        for source in with_bar([x for x in sources if x not in reasons], title and name):
            try:
                rows = scored(name, task, source)
            except Exception as error:
                reasons[source] = _reason(error)
                continue
            scores[source] |= rows
            lines = [line for row in rows.values() for line in row["warnings"]]
            warnings += [f"task {name}: {line}" for line in lines]
        if len(reasons) == len(sources):
            failed.append(name)
        if len(reasons) == len(sources) and len(set(reasons.values())) == 1:
            warnings.append(f"task {name}: {reasons.popitem()[1]}")
        else:
            warnings += [f"task {name}, {source}: {why}" for source, why in reasons.items()]
    return {"scores": scores, "failed": failed, "warnings": list(dict.fromkeys(warnings))}


def _reason(error: Exception) -> str:
    """Bad data are told in one line; what nobody foresaw is not worth the other tasks either."""
    return str(error) if isinstance(error, ValueError) else repr(error)
