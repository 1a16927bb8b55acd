"""Syllables as a probe: a model, its untrained self and the valleys of mel energy.

Every source goes through the same steps on each corpus: segments of all splits, thresholds and the
shift of boundaries chosen on valid, units fitted to the segments of train, scores on test. The
baseline "log-mel" cuts at the valleys of the mel energy and has log-mel frames.

Axes: T frames, N segments, D channels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_audio.hub import content_hash
from ssl_audio.models.encoder import Encoder
from ssl_audio.probes.abx_task import AbxTask, abx_scores
from ssl_audio.probes.metrics.abx import AbxSettings
from ssl_audio.probes.runner import LOG_MEL, TRAINED, UNTRAINED
from ssl_audio.probes.scores import Records, score_tasks, stored
from ssl_audio.probes.segmentation import SegmentationScore, score_segmentation
from ssl_audio.probes.sources import LogMelFrames, untrained_twin
from ssl_audio.probes.stream import BATCH_SEC, EXTRACTOR, Failure
from ssl_audio.probes.syllable_corpora import SyllableCorpus
from ssl_audio.probes.syllable_segments import best_thresholds, segments_of
from ssl_audio.probes.token_stream import TokenSequence, tokenized_frames
from ssl_audio.tokenizers import SyllableTokenizer, fit_kmeans
from ssl_audio.tokenizers.nearest import nearest_codes

VERSION = 4  # raised with any change of scores: stored ones become stale
EXPORTED = "as exported"
ROWS = {  # of the table: field of SegmentationScore to name and metric
    "f1": ("boundaries", "F1, 50 ms"),
    "r_value": ("boundaries, R-value", "R-value, 50 ms"),
    "syllable_purity": ("units: syllable purity", "purity"),
    "cluster_purity": ("units: cluster purity", "purity"),
}


@dataclass(frozen=True, slots=True)
class SyllableSettings:
    """How syllables are probed.

    Attributes:
        num_units: K of the units of sources that have none, fitted to the segments of train.
        abx: also let phones be told apart, where a corpus has them.
        batch_sec: padded seconds in a batch.
        seed: of the units.
    """

    num_units: int = 100
    abx: bool = True
    batch_sec: float = BATCH_SEC
    seed: int = 0


def probe_syllables(
    model: SyllableTokenizer | Encoder,
    corpora: Sequence[SyllableCorpus],
    *,
    layer: int | None = None,
    untrained: Encoder | None = None,
    others: Mapping[str, SyllableTokenizer | Encoder] | None = None,
    settings: SyllableSettings | None = None,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Results as :mod:`ssl_audio.probes.runner` describes them, with all scores in ``details``.

    Of an encoder the thresholds with the best boundary F1 on valid are taken, and units fitted; a
    tokenizer's own thresholds and units, found without labels, are scored in a column of their own.

    Args:
        model: to probe.
        corpora: recordings whose syllables are known.
        layer: of encoders, an index into their hidden states; None for the output.
        untrained: the model's initial state; by default one freshly initialised.
        others: further models by the name of their column.
        settings: how to probe.
        cache_dir: scores of finished corpora are kept here.
        progress: show bars.
    """
    settings = settings or SyllableSettings()
    if isinstance(model, SyllableTokenizer):
        encoder, layer = model.encoder, model.layer
    else:
        encoder = model
    models: dict[str, SyllableTokenizer | Encoder | None] = {
        TRAINED: encoder,
        UNTRAINED: untrained or untrained_twin(encoder),
        LOG_MEL: None,
        **(others or {}),
    }
    if encoder is not model:
        models[EXPORTED] = model
    keys = {name: LOG_MEL if x is None else content_hash(x) for name, x in models.items()}
    by_name = {corpus.name: corpus for corpus in corpora}
    details: dict[str, dict[str, Any]] = {name: {} for name in models}
    notes: list[str] = []

    def opened(name: str) -> SyllableCorpus:
        if by_name[name].problem:
            raise ValueError(by_name[name].problem)
        for split in ("valid", "test"):
            if not by_name[name].splits.get(split):
                raise ValueError(f"no recordings with syllables in split {split!r}")
        return by_name[name]

    def scored(name: str, corpus: SyllableCorpus, source: str) -> Records:
        asked = replace(settings, abx=settings.abx and source != EXPORTED)
        phones = corpus.abx.items if corpus.abx is not None and asked.abx else ()
        data = _fingerprint([corpus]), phones
        facts = (VERSION, EXTRACTOR, keys[source], layer, dataclasses.astuple(asked), data)
        found = stored(
            cache_dir, "syllables", facts, lambda: _scored(models[source], corpus, layer, asked)
        )
        details[source][name] = found["details"]
        notes.append(f"{name}, {source}: {_note(found['details'])}")
        return found["rows"]

    found = score_tasks(list(by_name), models, opened, scored, "syllables" if progress else "")
    return {
        "suite": "syllables",
        "suite_fingerprint": _fingerprint(corpora),
        "settings": dataclasses.asdict(settings) | {"layer": layer},
        **found,
        "details": details,
        "notes": notes,
    }


def _scored(
    model: SyllableTokenizer | Encoder | None,
    corpus: SyllableCorpus,
    layer: int | None,
    settings: SyllableSettings,
) -> dict[str, Any]:
    """``rows`` of the table, and ``details``: all scores and how they came about."""
    warnings: list[str] = []
    tokenizer = None
    if isinstance(model, SyllableTokenizer):
        tokenizer = _plain(model)
    elif model is not None:
        valid = corpus.splits["valid"]
        tokenizer = best_thresholds(model, valid, layer, settings.batch_sec)
    score, num_units = _score(tokenizer, corpus, settings, warnings)
    rows = _rows(corpus.name, score)
    details = {**score.to_dict(), "num_units": num_units}
    if tokenizer is not None:
        details["norm_threshold"] = tokenizer.options.norm_threshold
        details["merge_threshold"] = tokenizer.options.merge_threshold
    if corpus.abx is not None and settings.abx:
        details["abx"] = abx = _abx(tokenizer, corpus.abx, settings.batch_sec)
        rows |= _abx_rows(corpus.name, abx)
    for row in rows.values():
        row["warnings"] = warnings
    return {"rows": rows, "details": details}


def _score(
    tokenizer: SyllableTokenizer | None,
    corpus: SyllableCorpus,
    settings: SyllableSettings,
    warnings: list[str],
) -> tuple[SegmentationScore, int]:
    """Scores of a source, the valleys without a tokenizer, and the number of units."""

    def split(name: str) -> tuple[dict[str, TokenSequence], dict[str, np.ndarray]]:
        tokens, means = {}, {}
        for found in segments_of(tokenizer, corpus.splits.get(name, ()), settings.batch_sec):
            if isinstance(found, Failure):
                warnings.append(found.reason)
            else:
                tokens[found[0].id], means[found[0].id] = found
        return tokens, means

    (valid, _), (test, test_means) = split("valid"), split("test")
    units = None if tokenizer is None else tokenizer.centroids
    if units is None and corpus.splits.get("train"):
        _, train_means = split("train")
        vectors = np.concatenate([*train_means.values()])
        try:
            units = fit_kmeans(
                [vectors] * 4, settings.num_units, seed=settings.seed, batch_size=1000
            )
        except ValueError as error:
            warnings.append(f"no units: {error}")
    if units is not None:
        test = {
            name: replace(tokens, codes=_codes(test_means[name], units.cpu()))
            for name, tokens in test.items()
        }
    num_units = 0 if units is None else len(units)
    truth = corpus.splits["test"], test, corpus.splits["valid"], valid
    return score_segmentation(*truth, codebook_size=num_units), num_units


def _codes(means: np.ndarray, units: Tensor) -> np.ndarray:
    return nearest_codes(torch.from_numpy(means), units).numpy()[:, None]


def _plain(tokenizer: SyllableTokenizer) -> SyllableTokenizer:
    """Without tokens that are no segments, which neither boundaries nor purities want."""
    options = dataclasses.asdict(tokenizer.options)
    options |= {"deduplicate": False, "silence_gap_sec": None}
    return SyllableTokenizer(tokenizer.encoder, tokenizer.centroids, tokenizer.layer, **options)


def _abx(tokenizer: SyllableTokenizer | None, task: AbxTask, batch_sec: float) -> dict[str, float]:
    """Error within and across speakers."""
    source = LogMelFrames() if tokenizer is None else tokenized_frames(tokenizer)
    found = {}
    for speaker in ("within", "across"):
        scores = abx_scores(source, task, AbxSettings(speaker=speaker), batch_sec=batch_sec)
        found[speaker] = next(iter(scores.errors.values()))
    return found


def _rows(corpus: str, score: SegmentationScore) -> dict[str, dict[str, Any]]:
    rows = {}
    for field, (name, metric) in ROWS.items():
        value = getattr(score, field)
        if not math.isnan(value):
            rows[f"{corpus}: {name}"] = _row(value, score.intervals.get(field), metric)
    return rows


def _abx_rows(corpus: str, errors: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    return {
        f"{corpus}: phones {speaker} speakers": {
            **_row(error, None, "ABX error"),
            "higher_is_better": False,
        }
        for speaker, error in errors.items()
        if not math.isnan(error)
    }


def _row(value: float, ci95: tuple[float, float] | None, metric: str) -> dict[str, Any]:
    return {"value": value, "ci95": ci95, "metric": metric, "majority": None, "layer": ""}


def _note(details: Mapping[str, Any]) -> str:
    parts = [
        f"P {100 * details['precision']:.1f} R {100 * details['recall']:.1f}",
        f"shift {1000 * details['shift_sec']:+.0f} ms",
        f"{details['tokens_per_sec']:.2f} tokens/s of {details['reference_per_sec']:.2f}",
    ]
    if details["num_units"]:
        parts.append(
            f"{details['bits_per_sec']:.1f} bit/s with {details['num_units']} units, "
            f"{details['coding_efficiency']:.2f} of them tell the syllable"
        )
    if "norm_threshold" in details:
        parts.append(
            f"thresholds {details['norm_threshold']:.3g} and {details['merge_threshold']:.3g}"
        )
    return ", ".join(parts)


def _fingerprint(corpora: Sequence[SyllableCorpus]) -> str:
    """Hash of names, splits, labels and times."""
    digest = hashlib.sha256()
    for corpus in corpora:
        for split, items in corpus.splits.items():
            for item in items:
                facts = (corpus.name, split, item.recording.id, item.labels)
                digest.update(repr((*facts, item.segments.round(4).tolist())).encode())
    return digest.hexdigest()[:16]
