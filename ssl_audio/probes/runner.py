"""Probes an encoder and its baselines on a suite, and writes what came out.

Results are dicts that JSON can hold:
``{"suite", "suite_fingerprint", "settings", "scores": {source: {task: score}}, "warnings"}`` with
the fields of ``ProbeScore`` in each score.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ssl_audio.files import write_json
from ssl_audio.models.encoder import Encoder
from ssl_audio.probes.classify import BOUNDARIES, LINEAR, PROBES, ProbeSettings, run_probe
from ssl_audio.probes.feature_cache import merged, remove_features, stored_features
from ssl_audio.probes.features import PooledFeatures
from ssl_audio.probes.isolation import device_of
from ssl_audio.probes.progress import fraction_bar
from ssl_audio.probes.ranks import Ranks
from ssl_audio.probes.scores import plain, read_stored, stored_path
from ssl_audio.probes.sources import (
    EncoderLayers,
    FrameSource,
    LogMelFrames,
    Patches,
    untrained_twin,
)
from ssl_audio.probes.suite import SPLITS, ProbeSuite, ProbeTask
from ssl_audio.probes.table import markdown_table

PROTOCOL = 3  # raise it with any change that changes scores: cached results become stale
TRAINED, UNTRAINED, LOG_MEL = "trained", "untrained", "log-mel"
BASELINES = (UNTRAINED, LOG_MEL)
DEFAULT_PROBES = (LINEAR, BOUNDARIES)
ALONE = Ranks()
EXTRACTION_SHARE = 0.75  # of the time, for the progress bar


def run_probes(
    encoder: Encoder,
    suite: ProbeSuite,
    *,
    untrained: Encoder | None = None,
    others: Mapping[str, Encoder] | None = None,
    baselines: Sequence[str] = BASELINES,
    layers: Sequence[str] | None = None,
    probes: Sequence[str] = DEFAULT_PROBES,
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
        probes: names of ``PROBES``; rows of those behind the first are called ``TASK/PROBE``.
        settings: how to probe.
        cache_dir: finished work is kept here under a hash of all that decides it.
        progress: show a bar.

    Raises:
        ValueError: an unknown baseline or layer.
    """
    unknown = set(baselines) - set(BASELINES)
    if unknown:
        raise ValueError(f"unknown baseline {min(unknown)!r}; use {' or '.join(BASELINES)}")
    settings = settings or ProbeSettings()
    sources = encoder_and_baselines(
        encoder, layers, settings.patches, untrained, others, baselines=baselines
    )
    with fraction_bar(progress, f"probing {suite.name}") as advance:
        return probe_sources(
            sources,
            suite,
            probes=probes,
            settings=settings,
            cache_dir=cache_dir,
            on_progress=advance,
        )


def encoder_and_baselines(
    encoder: Encoder,
    layers: Sequence[str] | None = None,
    patches: Patches = "concat",
    untrained: Encoder | None = None,
    others: Mapping[str, Encoder] | None = None,
    *,
    baselines: Sequence[str] = BASELINES,
) -> dict[str, FrameSource]:
    """What is probed, by the name of its column; arguments as ``run_probes``."""
    layers_of = partial(EncoderLayers, layers=layers, patches=patches)
    sources: dict[str, FrameSource] = {TRAINED: layers_of(encoder)}
    if UNTRAINED in baselines:
        sources[UNTRAINED] = layers_of(untrained or untrained_twin(encoder))
    if LOG_MEL in baselines:
        sources[LOG_MEL] = LogMelFrames(device=device_of(encoder))
    return sources | {name: layers_of(other) for name, other in (others or {}).items()}


def probe_sources(
    sources: Mapping[str, FrameSource],
    suite: ProbeSuite,
    *,
    probes: Sequence[str] = DEFAULT_PROBES,
    settings: ProbeSettings | None = None,
    cache_dir: str | Path | None = None,
    on_progress: Callable[[float], None] = lambda fraction: None,
    ranks: Ranks = ALONE,
    on_features: Callable[[str, PooledFeatures], None] | None = None,
) -> dict[str, Any]:
    """Probes any sources of features. A task that fails becomes a warning, the others go on.

    With a cache, what is finished is neither extracted nor fitted again: scores are kept by task,
    and until the last of them features by half hours of audio.

    Args:
        sources, suite: what to probe, on what; equal on all ranks.
        probes, settings, cache_dir: as ``run_probes``.
        on_progress: called with the fraction that is done.
        ranks: who shares the work; all get all results.
        on_features: called with the features of each source that has something to do.
    """
    settings = settings or ProbeSettings()
    plan = planned(suite, probes)
    suite = suite.only([task.name for task, _ in plan])
    cache = None if cache_dir is None else Path(cache_dir)
    keys = {name: source.key for name, source in sources.items()} if cache else {}

    def path_of(source: str, task: ProbeTask, probe: str) -> Path | None:
        fingerprint = suite.only([task.name]).fingerprint()
        facts = (PROTOCOL, keys.get(source), fingerprint, probe, dataclasses.astuple(settings))
        return cache and stored_path(cache, "", facts)

    jobs = [(source, task, probe) for source in sources for task, probe in plan]
    # Rank 0 alone looks, so that all ranks know the same.
    stored = ranks.each(lambda: [read_stored(path_of(*job)) for job in jobs if ranks.index == 0])[0]
    found = {_row(*job, probes): entry for job, entry in zip(jobs, stored, strict=True) if entry}
    missing = [job for job in jobs if _row(*job, probes) not in found]
    if missing:
        open_sources = {name: sources[name] for name in dict.fromkeys(job[0] for job in missing)}
        own = _share(suite, ranks)
        shares = ranks.each(
            lambda: stored_features(
                open_sources, own, settings, cache, keys,
                lambda fraction: on_progress(EXTRACTION_SHARE * fraction),
            )
        )  # fmt: skip
        features = {name: merged([share[name] for share in shares]) for name in open_sources}
        if on_features is not None:
            for name, (table, _) in features.items():
                on_features(name, table)

        def probe_share() -> dict[tuple[str, str], dict[str, Any]]:
            done: dict[tuple[str, str], dict[str, Any]] = {}
            share = ranks.share(missing)
            for source, task, probe in share:
                entry = _probed(task, probe, *features[source], settings)
                path = path_of(source, task, probe)
                if path is not None:
                    write_json(path, entry)
                done[_row(source, task, probe, probes)] = entry
                on_progress(EXTRACTION_SHARE + (1 - EXTRACTION_SHARE) * len(done) / len(share))
            return done

        for part in ranks.each(probe_share):
            found |= part
        if cache is not None:
            ranks.each(lambda: remove_features(open_sources, own, settings, cache, keys))
    names = [label(task, probe, probes) for task, probe in plan]
    entries = {(source, name): found[source, name] for source in sources for name in names}
    scores: dict[str, dict[str, Any]] = {source: {} for source in sources}
    for (source, name), entry in entries.items():
        if entry["score"] is not None:
            scores[source][name] = entry["score"]
    return {
        "suite": suite.name,
        "suite_fingerprint": suite.fingerprint(),
        "settings": plain(dataclasses.asdict(settings)),
        "scores": scores,
        "failed": [
            *suite.failed,
            *(name for name in names if not any(name in rows for rows in scores.values())),
        ],
        "warnings": list(
            dict.fromkeys(
                [*suite.left_out, *(line for x in entries.values() for line in x["warnings"])]
            )
        ),
    }


def _share(suite: ProbeSuite, ranks: Ranks) -> ProbeSuite:
    """This rank's clips, of about equal duration on all."""
    used = {span.clip for span in suite.spans()}
    ordered = sorted(used, key=lambda clip: (-suite.clips[clip].duration_sec, clip))
    return suite.restricted(set(ranks.share(ordered)))


def _row(source: str, task: ProbeTask, probe: str, probes: Sequence[str]) -> tuple[str, str]:
    return source, label(task, probe, probes)


def planned(suite: ProbeSuite, probes: Sequence[str]) -> list[tuple[ProbeTask, str]]:
    """Every task with every probe that fits it, in order.

    Raises:
        ValueError: an unknown probe.
    """
    for name in probes:
        if name not in PROBES:
            raise ValueError(f"unknown probe {name!r}; probes: {', '.join(PROBES)}")
    return [
        (task, probe)
        for probe in probes
        for task in suite.tasks
        if (task.unit == "boundary") == (probe == BOUNDARIES)
    ]


def label(task: ProbeTask, probe: str, probes: Sequence[str]) -> str:
    """Name of a row: the task's, and the probe's unless it is the first."""
    return task.name if probe in (probes[0], BOUNDARIES) else f"{task.name}/{probe}"


def write_results(results: Mapping[str, Any], directory: str | Path) -> Path:
    """Writes ``results.json`` and ``results.md`` into ``directory``; returns the json's path."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.md").write_text(markdown_table(results), encoding="utf-8")
    return write_json(directory / "results.json", results)


def _probed(
    task: ProbeTask,
    probe: str,
    features: PooledFeatures,
    failures: Sequence[str],
    settings: ProbeSettings,
) -> dict[str, Any]:
    """``{"score": the record or None, "warnings": lines}``."""
    clips = {example.clip for split in SPLITS for example in task.examples[split]}
    lines = [line for line in failures if any(line.startswith(clip) for clip in clips)]
    try:
        score = plain(dataclasses.asdict(run_probe(task, features, settings, probe)))
    except ValueError as error:
        return {"score": None, "warnings": [*lines, f"task {task.name}: {error}"]}
    return {"score": score, "warnings": lines}
