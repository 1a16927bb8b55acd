"""Probes an encoder and its baselines on a suite, and writes what came out.

Results are dicts that JSON can hold:
``{"suite", "suite_fingerprint", "settings", "scores": {source: {task: score}}, "warnings"}`` with
the fields of ``ProbeScore`` in each score.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssl_audio.files import write_json
from ssl_audio.models.encoder import Encoder
from ssl_audio.probes.classify import ProbeSettings, run_probe
from ssl_audio.probes.features import pooled_features
from ssl_audio.probes.isolation import device_of
from ssl_audio.probes.sources import EncoderLayers, FrameSource, LogMelFrames, untrained_twin
from ssl_audio.probes.suite import ProbeSuite
from ssl_audio.probes.table import markdown_table

PROTOCOL = 1  # raise it with any change that changes scores: cached results become stale
TRAINED, UNTRAINED, LOG_MEL = "trained", "untrained", "log-mel"
BASELINES = (UNTRAINED, LOG_MEL)


def run_probes(
    encoder: Encoder,
    suite: ProbeSuite,
    *,
    untrained: Encoder | None = None,
    others: Mapping[str, Encoder] | None = None,
    baselines: Sequence[str] = BASELINES,
    layers: Sequence[str] | None = None,
    settings: ProbeSettings | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Scores of the encoder and of the baselines, all by the same procedure.

    Args:
        encoder: to probe; left as it was found.
        suite: the tasks.
        untrained: the encoder's own initial state; by default one freshly initialised.
        others: further encoders by the name of their column.
        baselines: which of "untrained" and "log-mel" to run.
        layers: names of hidden states to probe; None probes all and chooses on valid.
        settings: how to probe.
        cache_dir: results of each source are kept here under a hash of all that decides them.
        progress: show a bar.

    Raises:
        ValueError: an unknown baseline or layer.
    """
    unknown = set(baselines) - set(BASELINES)
    if unknown:
        raise ValueError(f"unknown baseline {min(unknown)!r}; use {' or '.join(BASELINES)}")
    sources: dict[str, FrameSource] = {TRAINED: EncoderLayers(encoder, layers)}
    if UNTRAINED in baselines:
        sources[UNTRAINED] = EncoderLayers(untrained or untrained_twin(encoder), layers)
    if LOG_MEL in baselines:
        sources[LOG_MEL] = LogMelFrames(device=device_of(encoder))
    sources |= {name: EncoderLayers(other, layers) for name, other in (others or {}).items()}
    return probe_sources(sources, suite, settings=settings, cache_dir=cache_dir, progress=progress)


def probe_sources(
    sources: Mapping[str, FrameSource],
    suite: ProbeSuite,
    *,
    settings: ProbeSettings | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Probes any sources of features. A task that fails becomes a warning, the others go on."""
    settings = settings or ProbeSettings()
    scores: dict[str, dict[str, Any]] = {}
    warnings = list(suite.left_out)
    cached = {name: _cache_path(cache_dir, src, suite, settings) for name, src in sources.items()}
    for name, path in cached.items():
        if path is not None and path.is_file():
            stored = json.loads(path.read_text())
            scores[name], warnings = stored["scores"], [*warnings, *stored["warnings"]]
    missing = {name: source for name, source in sources.items() if name not in scores}
    if missing:
        with _progress_bar(progress, f"probing {suite.name}") as advance:
            computed = _compute(missing, suite, settings, advance)
        for name, (task_scores, lines) in computed.items():
            scores[name], warnings = task_scores, [*warnings, *lines]
            path = cached[name]
            if path is not None:
                write_json(path, {"scores": task_scores, "warnings": lines})
    return {
        "suite": suite.name,
        "suite_fingerprint": suite.fingerprint(),
        "settings": _plain(dataclasses.asdict(settings)),
        "scores": {name: scores[name] for name in sources},
        "warnings": list(dict.fromkeys(warnings)),
    }


def write_results(results: Mapping[str, Any], directory: str | Path) -> Path:
    """Writes ``results.json`` and ``results.md`` into ``directory``; returns the json's path."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.md").write_text(markdown_table(results), encoding="utf-8")
    return write_json(directory / "results.json", results)


def _compute(
    sources: Mapping[str, FrameSource],
    suite: ProbeSuite,
    settings: ProbeSettings,
    advance: Callable[[float], None],
) -> dict[str, tuple[dict[str, Any], list[str]]]:
    """Scores by task and warnings, for each source. Extraction counts as 3/4 of the progress."""
    features, failures = pooled_features(
        sources,
        suite,
        batch_sec=settings.batch_sec,
        max_clip_sec=settings.max_clip_sec,
        on_progress=lambda fraction: advance(0.75 * fraction),
    )
    computed: dict[str, tuple[dict[str, Any], list[str]]] = {}
    done, total = 0, len(sources) * max(1, len(suite.tasks))
    for name in sources:
        scores: dict[str, Any] = {}
        lines = list(failures)
        for task in suite.tasks:
            try:
                score = run_probe(task, features[name], settings)
                scores[task.name] = _plain(dataclasses.asdict(score))
            except ValueError as error:
                lines.append(f"task {task.name}: {error}")
            done += 1
            advance(0.75 + 0.25 * done / total)
        computed[name] = scores, lines
    return computed


def _cache_path(
    cache_dir: str | Path | None, source: FrameSource, suite: ProbeSuite, settings: ProbeSettings
) -> Path | None:
    if cache_dir is None:
        return None
    parts = (PROTOCOL, source.key, suite.fingerprint(), dataclasses.astuple(settings))
    return Path(cache_dir) / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:24]}.json"


def _plain(value: Any) -> Any:
    """Tuples to lists, so that fresh results equal those read from JSON."""
    return json.loads(json.dumps(value))


@contextmanager
def _progress_bar(shown: bool, title: str) -> Iterator[Callable[[float], None]]:
    """A bar that takes the fraction that is done, or nothing at all."""
    if not shown:
        yield lambda fraction: None
        return
    from rich.progress import Progress

    with Progress() as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda fraction: bar.update(task, completed=fraction)
