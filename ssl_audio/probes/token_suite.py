"""A tokenizer's quality as a table: use of its codes, agreement with labels, ABX of its codes.

Axes: B clips, S samples, T frames, Q codebooks, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_audio import __version__
from ssl_audio.hub import content_hash
from ssl_audio.probes.abx_task import AbxTask, abx_scores, demo_abx, folder_abx
from ssl_audio.probes.isolation import device_of, same_random_state
from ssl_audio.probes.runner import TRAINED, UNTRAINED
from ssl_audio.probes.sources import LAST_LAYER
from ssl_audio.probes.suite import SPLITS, ProbeSuite
from ssl_audio.probes.token_stream import CodeFrames, TokenSequence
from ssl_audio.probes.tokens import agreements, read_tokens, statistics
from ssl_audio.tokenizers.syllable_tokenizer import SyllableTokenizer
from ssl_audio.tokenizers.tokenizer import Tokenizer

GROUPS = 10  # of clips, each left out once
NORMAL_95 = 1.96
MAX_ONE_HOT = 2048  # channels of ABX: codebooks beyond are left out
# Statistic of the codes -> metric, what to multiply it by, whether more is better.
USE = {
    "utilisation": ("utilisation, %", 100, True),
    "perplexity": ("perplexity", 1, True),
    "entropy_bits": ("entropy, bit", 1, True),
}
RATES = {
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


def probe_tokens(tokenizer: Tokenizer, suite: ProbeSuite, abx: AbxTask | None) -> dict[str, Any]:
    """Results in the form of ``runner.run_probes``; columns are the tokenizer and its untrained
    self.

    No training takes part, so all splits count. Intervals are those of the jackknife over groups of
    clips.

    Args:
        tokenizer: on the device to use.
        suite: clips and labels.
        abx: phones to compare, on test; None leaves ABX out.

    Raises:
        ValueError: a tokenizer without codes, or no clip that gives tokens.
    """
    tasks = [task.name for task in suite.tasks if task.unit != "boundary"]
    suite = suite.only(tasks)
    warnings = list(suite.left_out)
    scores = {TRAINED: _records(tokenizer, suite, abx, warnings)}
    try:
        scores[UNTRAINED] = _records(_untrained(tokenizer), suite, abx, [])
    except (ValueError, RuntimeError, AssertionError) as error:
        warnings.append(f"the untrained tokenizer gives no tokens: {error}")
    return {
        "suite": "tokens",
        "suite_fingerprint": suite.fingerprint(),
        "scores": scores,
        "notes": [
            f"{tokenizer.num_codebooks} codebooks of {tokenizer.codebook_size}, means over them; "
            "statistics of the codes are of all clips, n-grams of the first codebook"
        ],
        "encoder_hash": content_hash(tokenizer),
        "versions": {"ssl_audio": __version__, "torch": torch.__version__},
        "warnings": list(dict.fromkeys(warnings)),
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


def _records(
    tokenizer: Tokenizer, suite: ProbeSuite, abx: AbxTask | None, warnings: list[str]
) -> dict[str, dict[str, Any]]:
    found, lost = read_tokens(tokenizer, suite)
    warnings += lost
    size = tokenizer.codebook_size
    whole = _rows(found, suite, size, warnings)
    count = min(GROUPS, len(found))
    parts = [
        _rows([x for i, x in enumerate(found) if i % count != group], suite, size, [])
        for group in range(count)
        if count > 1
    ]
    records = {}
    for name, (metric, scale, better, value) in whole.items():
        others = [part[name][3] for part in parts if name in part]
        records[name] = _record(metric, scale, better, value, _interval(value, others))
    if abx is not None and not isinstance(tokenizer, SyllableTokenizer):
        error = abx_scores(_OneHotCodes(tokenizer), abx).errors.get(LAST_LAYER, math.nan)
        if not math.isnan(error):
            records["phones: ABX"] = _record("ABX error, %", 100, False, error, None)
    return records


def _rows(
    found: Sequence[TokenSequence], suite: ProbeSuite, size: int, warnings: list[str]
) -> dict[str, tuple[str, int, bool, float]]:
    """Row to metric, scale, whether more is better, value; those without a value are left out."""
    stats = statistics(found, size)
    rows: dict[str, tuple[str, int, bool, float]] = {}
    for key, form in USE.items():
        rows[f"codes: {key}"] = (*form, stats["codebooks"]["mean"][key])
    for key, form in RATES.items():
        rows[f"codes: {key}"] = (*form, stats[key])
    for order, value in enumerate(stats["conditional_entropy_nats"]):
        rows[f"codes: {order + 1}-gram"] = (ORDERS[order], 1, False, value)
    for task, agreement in agreements(found, suite, SPLITS, warnings).items():
        for key, form in AGREEMENT.items():
            rows[f"{task}: {key}"] = (*form, agreement["mean"][key])
    return {name: row for name, row in rows.items() if not math.isnan(row[3])}


def _interval(value: float, others: Sequence[float]) -> tuple[float, float] | None:
    """95 % from the values with each group of clips left out."""
    if len(others) < 2:
        return None
    mean = sum(others) / len(others)
    variance = (len(others) - 1) / len(others) * sum((x - mean) ** 2 for x in others)
    half = NORMAL_95 * math.sqrt(variance)
    return value - half, value + half


def _record(
    metric: str, scale: int, better: bool, value: float, interval: tuple[float, float] | None
) -> dict[str, Any]:
    return {
        "suite": "tokens",
        "metric": metric,
        "scale": scale,
        "higher_is_better": better,
        "value": value,
        "ci95": None if interval is None else list(interval),
        "majority": None,
        "layer": "codes",
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
