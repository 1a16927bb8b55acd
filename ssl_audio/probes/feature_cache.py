"""Features of a probe suite in parts, kept on disk so that a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ssl_audio.files import replacing
from ssl_audio.probes.classify import ProbeSettings
from ssl_audio.probes.features import PooledFeatures, pooled_features
from ssl_audio.probes.sources import FrameSource
from ssl_audio.probes.stream import EXTRACTOR
from ssl_audio.probes.suite import Pooling, ProbeSuite, Span

PART_SEC = 1800.0  # audio in a part

Found = tuple[PooledFeatures, list[str]]  # and one line for each clip or span left out


def stored_features(
    sources: Mapping[str, FrameSource],
    suite: ProbeSuite,
    settings: ProbeSettings,
    cache: Path | None,
    keys: Mapping[str, str],
    on_progress: Callable[[float], None],
) -> dict[str, Found]:
    """As ``pooled_features``, by source.

    Args:
        cache: the folder; None keeps nothing.
        keys: of the sources, where there is a cache.
    """
    parts = _parts(suite) if cache else [suite]
    collected: dict[str, list[Found]] = {name: [] for name in sources}
    for index, part in enumerate(parts):
        missing = {}
        for name, source in sources.items():
            stored = None if cache is None else _read(_path(cache, keys[name], part, settings))
            if stored is None:
                missing[name] = source
            else:
                collected[name].append(stored)
        if missing:
            features, failures = pooled_features(
                missing,
                part,
                batch_sec=settings.batch_sec,
                max_clip_sec=settings.max_clip_sec,
                on_progress=lambda x, index=index: on_progress((index + x) / len(parts)),  # type: ignore[misc]
            )
            for name, table in features.items():
                collected[name].append((table, failures))
                if cache is not None:
                    _write(_path(cache, keys[name], part, settings), table, failures)
        on_progress((index + 1) / len(parts))
    return {name: merged(found) for name, found in collected.items()}


def remove_features(
    sources: Mapping[str, FrameSource],
    suite: ProbeSuite,
    settings: ProbeSettings,
    cache: Path,
    keys: Mapping[str, str],
) -> None:
    """Deletes what ``stored_features`` kept, once the scores are known."""
    for part in _parts(suite):
        for name in sources:
            _path(cache, keys[name], part, settings).unlink(missing_ok=True)


def merged(parts: Sequence[Found]) -> Found:
    """Features of one source over several sets of clips."""
    if len(parts) == 1:
        return parts[0]
    tables: dict[Pooling, dict[str, torch.Tensor]] = {}
    rows: dict[Span, int] = {}
    for pooling in {pooling for features, _ in parts for pooling in features.tables}:
        members = [features for features, _ in parts if pooling in features.tables]
        names = members[0].tables[pooling]
        tables[pooling] = {
            name: torch.cat([features.tables[pooling][name] for features in members])
            for name in names
        }
        first = 0
        for features in members:
            rows |= {
                span: first + row for span, row in features.rows.items() if span.pooling == pooling
            }
            first += len(next(iter(features.tables[pooling].values())))
    return PooledFeatures(tables, rows), [line for _, lines in parts for line in lines]


def _parts(suite: ProbeSuite) -> list[ProbeSuite]:
    """The suite cut by clips."""
    groups: list[set[str]] = [set()]
    seconds = 0.0
    for name in sorted({span.clip for span in suite.spans()}):
        if seconds >= PART_SEC:
            groups.append(set())
            seconds = 0.0
        groups[-1].add(name)
        seconds += suite.clips[name].duration_sec
    return [suite.restricted(group) for group in groups]


def _path(cache: Path, key: str, part: ProbeSuite, settings: ProbeSettings) -> Path:
    parts = (EXTRACTOR, key, part.fingerprint(), settings.batch_sec, settings.max_clip_sec)
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
    return cache / f"features-{digest}.safetensors"


def _write(path: Path, features: PooledFeatures, failures: Sequence[str]) -> None:
    tensors = {
        f"{pooling}/{name}": table
        for pooling, layers in features.tables.items()
        for name, table in layers.items()
    }
    rows = [[*span, row] for span, row in features.rows.items()]
    with replacing(path) as temporary:
        metadata = {"rows": json.dumps(rows), "failures": json.dumps(list(failures))}
        save_file(tensors, temporary, metadata)


def _read(path: Path) -> Found | None:
    """What ``_write`` wrote; None if there is nothing, or the file is damaged."""
    if not path.is_file():
        return None
    tables: dict[Pooling, dict[str, torch.Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            for name in file.keys():  # noqa: SIM118  the file is not a mapping
                pooling, _, layer = name.partition("/")
                tables.setdefault(pooling, {})[layer] = file.get_tensor(name)
        rows = {Span(*fields): row for *fields, row in json.loads(metadata["rows"])}
        return PooledFeatures(tables, rows), json.loads(metadata["failures"])
    except (SafetensorError, OSError, ValueError, TypeError, KeyError):
        path.unlink(missing_ok=True)  # cut off by a full disk, say: made anew
        return None
