"""A tokenizer's quality as a table: use of its codes, agreement with labels, ABX of its codes.

Axes: B clips, S samples, T frames, Q codebooks, K codes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_audio.hub import content_hash
from ssl_audio.probes.abx_task import AbxTask, abx_scores, demo_abx, folder_abx
from ssl_audio.probes.isolation import device_of, same_random_state
from ssl_audio.probes.recordings import Recording
from ssl_audio.probes.runner import TRAINED, UNTRAINED
from ssl_audio.probes.scores import VERSIONS, Record, Records, score_tasks, stored
from ssl_audio.probes.sources import LAST_LAYER
from ssl_audio.probes.stream import EXTRACTOR, Features, iter_features
from ssl_audio.probes.suite import SPLITS, ProbeSuite
from ssl_audio.probes.token_stream import CodeFrames, TokenSequence, tokenized_frames
from ssl_audio.probes.tokens import (
    agreements,
    check_codes,
    read_tokens,
    recordings_of,
    statistics,
)
from ssl_audio.tokenizers.kmeans import KMeansTokenizer, fit_kmeans
from ssl_audio.tokenizers.syllable_tokenizer import SyllableTokenizer
from ssl_audio.tokenizers.tokenizer import Tokenizer

VERSION = 1  # raised with any change of scores: stored rows become stale
CODES, ABX = "codes", "phones: ABX"  # beside the names of tasks
FRAMES_PER_UNIT = 30  # to fit an untrained encoder's units to
GROUPS = 10  # of clips, each left out once
NORMAL_95 = 1.96
MAX_ONE_HOT = 2048  # channels of ABX: codebooks beyond are left out
# Statistic of the codes -> metric, what to multiply it by, whether more is better.
USE = {
    "utilisation": ("utilisation, %", 100, True),
    "perplexity": ("perplexity", 1, True),
    "entropy_bits": ("entropy, bit", 1, True),
    "tokens_per_sec": ("tokens/s", 1, False),
    "bits_per_sec": ("bit/s", 1, False),
    "mean_run_tokens": ("run length, tokens", 1, True),
}
ORDERS = ("entropy, nat", "entropy given 1, nat", "entropy given 2, nat")
AGREEMENT = {
    "label_purity": ("label purity, %", 100, True),
    "code_purity": ("cluster purity, %", 100, True),
    "pnmi": ("PNMI, %", 100, True),
}

Form = tuple[str, int, bool]  # metric, what to multiply it by, whether more is better
Rows = dict[str, tuple[Form, float]]


def probe_tokens(
    tokenizer: Tokenizer,
    suite: ProbeSuite,
    abx: AbxTask | None,
    *,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Results in the form of ``runner.run_probes``; columns are the tokenizer and its untrained
    self (with units of its own, where the tokenizer has k-means units).

    No training takes part, so all splits count. Intervals are those of the jackknife over groups of
    clips.

    Args:
        tokenizer: on the device to use.
        suite: clips and labels.
        abx: phones to compare, on test; None leaves ABX out.
        cache_dir: rows of finished tasks are kept here.
        progress: show bars.

    Raises:
        ValueError: a tokenizer without codes.
    """
    check_codes(tokenizer)
    suite = suite.only([task.name for task in suite.tasks if task.unit != "boundary"])
    title, twin = "tokens" if progress else "", _untrained(tokenizer)
    sources = {
        TRAINED: _Source(tokenizer, suite, title),
        UNTRAINED: (_OwnUnits if _has_units(twin) else _Source)(twin, suite, title),
    }
    names = [CODES, *(task.name for task in suite.tasks)]
    if abx is not None and not isinstance(tokenizer, SyllableTokenizer):
        names.append(ABX)

    def opened(name: str) -> ProbeSuite | AbxTask:
        if name == ABX:
            assert abx is not None
            return abx
        return suite if name == CODES else suite.only([name])

    def scored(name: str, part: ProbeSuite | AbxTask, source: str) -> Records:
        data = part.items if isinstance(part, AbxTask) else part.fingerprint()
        facts = (VERSION, EXTRACTOR, sources[source].key, name, data)
        return stored(cache_dir, "tokens", facts, lambda: sources[source].records(name, part))

    title = f"probing tokens of {suite.name}" if progress else ""
    found = score_tasks(names, sources, opened, scored, title)
    return {
        "suite": "tokens",
        "suite_fingerprint": suite.fingerprint(),
        **found,
        "failed": [*suite.failed, *found["failed"]],
        "notes": [
            f"{tokenizer.num_codebooks} codebooks of {tokenizer.codebook_size}, means over them; "
            "statistics of the codes are of all clips, n-grams of the first codebook"
        ],
        "encoder_hash": sources[TRAINED].key,
        "versions": VERSIONS,
        "warnings": [*suite.left_out, *found["warnings"]],
    }


def abx_of_root(root: Path, suite: ProbeSuite) -> AbxTask | None:
    """Phones of the suite's test split: the demo corpus', or a folder's first segments that name
    their speakers."""
    if suite.name == "demo":
        return demo_abx(root)
    home = root.parent if root.name == "probes" else root
    for task in suite.tasks:
        if task.unit == "segment":
            try:
                return folder_abx(home, task.name)
            except ValueError:
                continue  # without speakers
    return None


class _Source:
    """A tokenizer, its tokens of the suite's clips once they are asked for."""

    def __init__(self, tokenizer: Tokenizer, suite: ProbeSuite, title: str) -> None:
        self.tokenizer, self.suite, self.title = tokenizer, suite, title
        self.key = content_hash(tokenizer)

    @cached_property
    def tokens(self) -> tuple[list[TokenSequence], dict[str, str]]:
        return read_tokens(self.tokenizer, self.suite, title=self.title)

    def records(self, name: str, part: ProbeSuite | AbxTask) -> Records:
        """Rows of the codes' use, of one task, or of ABX."""
        if isinstance(part, AbxTask):
            scores = abx_scores(_OneHotCodes(self.tokenizer), part)
            error = scores.errors.get(LAST_LAYER, math.nan)
            if math.isnan(error):
                raise ValueError("no phones to compare")
            return {name: _record("ABX error, %", 100, False, error, None, scores.failures)}
        clips = {span.clip for span in part.spans()}
        found = [tokens for tokens in self.tokens[0] if tokens.id in clips]
        lost = [line for clip, line in self.tokens[1].items() if clip in clips]
        rows_of = partial(
            _use if name == CODES else _agreement, part=part, tokenizer=self.tokenizer
        )
        whole = rows_of(found)
        if not whole:
            raise ValueError("no token lies in a labelled span")
        count = min(GROUPS, len(found))
        groups = range(count if count > 1 else 0)
        parts = [rows_of([x for i, x in enumerate(found) if i % count != g]) for g in groups]
        return {
            row: _record(
                *form, value, _interval(value, [x[row][1] for x in parts if row in x]), lost
            )
            for row, (form, value) in whole.items()
        }


class _OwnUnits(_Source):
    """An untrained tokenizer of units: they are clusters of its own frames of a row's recordings.

    Another encoder's units, or none at all, would tell nothing of it.
    """

    def __init__(self, tokenizer: Tokenizer, suite: ProbeSuite, title: str) -> None:
        super().__init__(tokenizer, suite, title)
        self.key += "-own units"

    def records(self, name: str, part: ProbeSuite | AbxTask) -> Records:
        assert isinstance(self.tokenizer, KMeansTokenizer | SyllableTokenizer)
        if isinstance(part, AbxTask):
            suite = self.suite
            _fit_units(self.tokenizer, part.recordings)
        else:
            suite = part
            _fit_units(self.tokenizer, recordings_of(part, ("train",)))
        return _Source(self.tokenizer, suite, self.title).records(name, part)


def _has_units(tokenizer: Tokenizer) -> bool:
    return isinstance(tokenizer, KMeansTokenizer) or (
        isinstance(tokenizer, SyllableTokenizer) and tokenizer.centroids is not None
    )


def _fit_units(
    tokenizer: KMeansTokenizer | SyllableTokenizer, recordings: Sequence[Recording]
) -> None:
    """To frames of some of the recordings.

    Raises:
        ValueError: fewer frames than units.
    """
    assert tokenizer.centroids is not None
    left_sec = FRAMES_PER_UNIT * len(tokenizer.centroids) / tokenizer.frame_rate
    chosen = []
    for recording in random.Random(0).sample(recordings, len(recordings)):
        if left_sec > 0:
            chosen.append(recording)
            left_sec -= recording.duration_sec
    found = iter_features(tokenized_frames(tokenizer), chosen, pooling="none")
    frames = (next(iter(x.layers.values())) for x in found if isinstance(x, Features))
    tokenizer.centroids.copy_(fit_kmeans(frames, len(tokenizer.centroids), seed=0))


def _use(found: Sequence[TokenSequence], part: ProbeSuite, tokenizer: Tokenizer) -> Rows:
    stats = statistics(found, tokenizer.codebook_size)
    values = stats["codebooks"]["mean"] | stats
    rows = {f"{CODES}: {key}": (form, values[key]) for key, form in USE.items()}
    for order, value in enumerate(stats["conditional_entropy_nats"]):
        rows[f"{CODES}: {order + 1}-gram"] = ((ORDERS[order], 1, False), value)
    return _finite(rows)


def _agreement(found: Sequence[TokenSequence], part: ProbeSuite, tokenizer: Tokenizer) -> Rows:
    warnings: list[str] = []
    rows = {}
    for task, agreement in agreements(found, part, SPLITS, warnings).items():
        for key, form in AGREEMENT.items():
            rows[f"{task}: {key}"] = (form, agreement["mean"][key])
    return _finite(rows)


def _finite(rows: Rows) -> Rows:
    return {name: row for name, row in rows.items() if not math.isnan(row[1])}


def _interval(value: float, others: Sequence[float]) -> tuple[float, float] | None:
    """95 % from the values with each group of clips left out."""
    if len(others) < 2:
        return None
    mean = sum(others) / len(others)
    variance = (len(others) - 1) / len(others) * sum((x - mean) ** 2 for x in others)
    half = NORMAL_95 * math.sqrt(variance)
    return value - half, value + half


def _record(
    metric: str,
    scale: int,
    better: bool,
    value: float,
    interval: tuple[float, float] | None,
    warnings: Sequence[str],
) -> Record:
    return {
        "suite": "tokens",
        "metric": metric,
        "scale": scale,
        "higher_is_better": better,
        "value": value,
        "ci95": None if interval is None else list(interval),
        "majority": None,
        "layer": CODES,
        "warnings": list(warnings),
    }


def _untrained(tokenizer: Tokenizer, seed: int = 0) -> Tokenizer:
    with same_random_state():
        torch.manual_seed(seed)
        twin = type(tokenizer).from_config(tokenizer.config)
    return twin.to(device_of(tokenizer)).eval().requires_grad_(False)


class _OneHotCodes(CodeFrames):
    """Codes as vectors with a one for each codebook: the cosine is the share of equal codes."""

    def layers(self, waveforms: Tensor, lengths: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        layers, frames = super().layers(waveforms, lengths)
        size = self.tokenizer.codebook_size
        codes = layers[LAST_LAYER][..., : max(1, MAX_ONE_HOT // size)].long().clamp(min=0)
        return {LAST_LAYER: F.one_hot(codes, size).flatten(2).float()}, frames
