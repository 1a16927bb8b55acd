"""Token quality of any tokenizer on a labelled suite: use of its codes, agreement with labels.

Axes: N tokens, Q codebooks, K codes.
"""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssl_audio.probes.features import recording_of
from ssl_audio.probes.metrics.token_quality import (
    CodebookUse,
    LabelAgreement,
    bit_rate,
    codebook_redundancy,
    codebook_use,
    conditional_entropies,
    label_agreement,
    mean_run_frames,
    token_rate,
)
from ssl_audio.probes.progress import with_bar
from ssl_audio.probes.recordings import Recording
from ssl_audio.probes.stream import BATCH_SEC, Failure
from ssl_audio.probes.suite import SPLITS, Example, ProbeSuite
from ssl_audio.probes.token_stream import TokenSequence, iter_tokens
from ssl_audio.tokenizers.tokenizer import Tokenizer

MAX_ORDER = 2  # of n-gram statistics: a code given its two predecessors


def token_quality(
    tokenizer: Tokenizer,
    suite: ProbeSuite,
    *,
    splits: Sequence[str] = SPLITS,
    batch_sec: float = BATCH_SEC,
) -> dict[str, Any]:
    """Statistics of the tokens of a suite's clips, JSON-able. No training, so all splits count.

    A token has the label of the example that its centre lies in (of the whole clip in clip tasks);
    tokens without a label take no part in a task's agreement.

    Args:
        tokenizer: on the device to use.
        suite: clips and labels.
        splits: whose clips are read.
        batch_sec: padded seconds in a batch.

    Returns:
        ``codebooks``: use of each, and the ``mean`` and ``min`` over them; ``agreement``: the same
        by task; rates per second (``entropy_bits_per_sec``: bound of a coder that ignores order);
        ``conditional_entropy_nats`` of the first codebook given 0 .. 2 predecessors;
        ``redundancy_nats``: mean mutual information between two codebooks; ``warnings``.

    Raises:
        ValueError: a tokenizer without codes, or no clip that gives tokens.
    """
    found, lost = read_tokens(tokenizer, suite, splits, batch_sec)
    warnings = list(lost.values())
    return {
        "suite": suite.name,
        "splits": list(splits),
        "codebook_size": tokenizer.codebook_size,
        "num_codebooks": tokenizer.num_codebooks,
        **statistics(found, tokenizer.codebook_size),
        "agreement": agreements(found, suite, splits, warnings),
        "warnings": [*suite.left_out, *warnings],
    }


def check_codes(tokenizer: Tokenizer) -> None:
    """ValueError for a tokenizer that finds segments only."""
    if tokenizer.num_codebooks < 1 or tokenizer.codebook_size < 1:
        raise ValueError("token quality needs codes; fit units for this tokenizer first")


def read_tokens(
    tokenizer: Tokenizer,
    suite: ProbeSuite,
    splits: Sequence[str] = SPLITS,
    batch_sec: float = BATCH_SEC,
    title: str = "",
) -> tuple[list[TokenSequence], dict[str, str]]:
    """Tokens of the clips of ``splits`` in the order of their names, and why a clip has none.

    Args:
        tokenizer, suite, splits, batch_sec: as ``token_quality``.
        title: of a progress bar; empty shows none.

    Raises:
        ValueError: as ``token_quality``.
    """
    check_codes(tokenizer)
    recordings = recordings_of(suite, splits)
    found, lost = [], {}
    stream = iter_tokens(tokenizer, recordings, batch_sec=batch_sec)
    for tokens in with_bar(stream, title, len(recordings)):
        if isinstance(tokens, Failure):
            lost[tokens.id] = tokens.reason
        elif len(tokens.codes):
            found.append(tokens)
    if not found:
        raise ValueError(f"no clip of suite {suite.name!r} gives tokens")
    return sorted(found, key=lambda tokens: tokens.id), lost


def recordings_of(suite: ProbeSuite, splits: Sequence[str] = SPLITS) -> list[Recording]:
    """Clips of the splits, in the order of their names."""
    used = {e.clip for task in suite.tasks for split in splits for e in task.examples[split]}
    return [recording_of(suite.clips[name]) for name in sorted(used)]


def labels_at(
    times_sec: Sequence[float] | np.ndarray, examples: Sequence[Example]
) -> list[str | None]:
    """The label of the example that holds each time, None outside; of overlapping ones, the later.

    Args:
        times_sec: in any order.
        examples: of one clip.
    """
    ordered = sorted(examples, key=lambda example: example.start_sec)
    starts = [example.start_sec for example in ordered]
    labels: list[str | None] = []
    for time in times_sec:
        index = bisect.bisect_right(starts, time) - 1
        example = ordered[index] if index >= 0 else None
        inside = example is not None and (example.end_sec is None or time < example.end_sec)
        labels.append(example.label if example is not None and inside else None)
    return labels


def statistics(found: Sequence[TokenSequence], codebook_size: int) -> dict[str, Any]:
    """Use of the codes, and rates; see ``token_quality``."""
    codes = np.concatenate([tokens.codes for tokens in found])
    uses = [codebook_use(column, codebook_size) for column in codes.T]
    seconds = sum(tokens.duration_sec for tokens in found)
    per_codebook = token_rate(len(codes), seconds)
    first = [tokens.codes[:, 0] for tokens in found]
    return {
        "num_clips": len(found),
        "audio_sec": seconds,
        "tokens_per_sec": per_codebook * len(uses),
        "bits_per_sec": bit_rate(per_codebook * len(uses), codebook_size),
        "entropy_bits_per_sec": per_codebook * sum(use.entropy_bits for use in uses),
        "codebooks": _summary(uses),
        "mean_run_tokens": mean_run_frames(first),
        "conditional_entropy_nats": conditional_entropies(first, MAX_ORDER),
        "redundancy_nats": _redundancy(codes),
    }


def _redundancy(codes: np.ndarray) -> float:
    if codes.shape[1] < 2:
        return math.nan
    table = codebook_redundancy(codes)
    return float(table[np.triu_indices(len(table), 1)].mean())


def agreements(
    found: Sequence[TokenSequence], suite: ProbeSuite, splits: Sequence[str], warnings: list[str]
) -> dict[str, Any]:
    """Agreement by task; a line is added to ``warnings`` for each task without any."""
    agreements = {}
    for task in suite.tasks:
        by_clip = _by_clip([e for split in splits for e in task.examples[split]])
        labels: list[list[str]] = []
        codes: list[np.ndarray] = []
        for tokens in found:
            centres = (tokens.start_sec + tokens.end_sec) / 2
            at = labels_at(centres, by_clip.get(tokens.id, ()))
            kept = [i for i, label in enumerate(at) if label is not None]
            labels.append([str(at[i]) for i in kept])
            codes.append(tokens.codes[kept])
        if not any(labels):
            warnings.append(f"task {task.name}: no token lies in a labelled span")
            continue
        columns = [[clip[:, q] for clip in codes] for q in range(codes[0].shape[1])]
        agreements[task.name] = _summary([label_agreement(labels, column) for column in columns])
    return agreements


def _summary(parts: Sequence[CodebookUse] | Sequence[LabelAgreement]) -> dict[str, Any]:
    """Each codebook's numbers, and their mean and minimum over codebooks."""
    rows = [part.to_dict() for part in parts]
    over = {name: [row[name] for row in rows] for name in rows[0]}
    return {
        "each": rows,
        "mean": {name: float(np.mean(values)) for name, values in over.items()},
        "min": {name: min(values) for name, values in over.items()},
    }


def _by_clip(examples: Sequence[Example]) -> dict[str, list[Example]]:
    grouped: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        grouped[example.clip].append(example)
    return grouped
