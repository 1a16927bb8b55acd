"""Corpus error rates: edits summed over utterances, divided by the summed reference length.

Definition: s3prl ``metric/common.py`` (words are split at single spaces, so an empty text is one
empty word). 0 is best, values above 1 are possible. NaN if the reference has no token.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np


def edit_distance(hypothesis: Sequence[Hashable], reference: Sequence[Hashable]) -> int:
    """Insertions, deletions and substitutions between two token sequences."""
    index: dict[Hashable, int] = {}
    hyp, ref = (
        np.array([index.setdefault(token, len(index)) for token in tokens], dtype=np.int64)
        for tokens in (hypothesis, reference)
    )
    steps = np.arange(len(ref) + 1)
    row = steps
    for i, token in enumerate(hyp):
        moved = np.minimum(row[1:] + 1, row[:-1] + (ref != token))
        moved = np.concatenate([[i + 1], moved])
        # Insertions run along the row: the best start k of a run ending at j costs j - k more.
        row = np.minimum.accumulate(moved - steps) + steps
    return int(row[-1])


def token_error_rate(
    hypotheses: Sequence[Sequence[Hashable]], references: Sequence[Sequence[Hashable]]
) -> float:
    """Error rate over any tokens.

    Raises:
        ValueError: different numbers of hypotheses and references.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    edits = sum(edit_distance(h, r) for h, r in zip(hypotheses, references, strict=True))
    total = sum(len(reference) for reference in references)
    return edits / total if total else math.nan


def word_error_rate(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """``token_error_rate`` over words; also the phone error rate of phones between spaces."""
    return token_error_rate([h.split(" ") for h in hypotheses], [r.split(" ") for r in references])


def character_error_rate(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """``token_error_rate`` over characters, spaces included."""
    return token_error_rate(hypotheses, references)
