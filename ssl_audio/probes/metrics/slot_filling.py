"""SUPERB's slot filling scores on transcripts with slot tokens, ``B-city new york E-city``.

Definition: s3prl ``downstream/ctc/metric.py``. Slot types and values of utterances are compared;
where the value stands in the text does not matter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from ssl_audio.probes.metrics.error_rates import character_error_rate, word_error_rate

SLOT = re.compile(r"B-(\S+) (.+?) E-\1")
OPENING, CLOSING = re.compile(r"B-\S+ "), re.compile(r" E-\S+")
WORST_RATE = 100.0  # a value this far from the reference counts as none

Slots = dict[str, list[str]]  # values by slot type
ErrorRate = Callable[[Sequence[str], Sequence[str]], float]


def slot_type_f1(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Mean over utterances of the F1 of the sets of slot types; two empty sets agree."""
    scores = []
    for found, expected in _slots(hypotheses, references):
        both = len(found.keys() & expected.keys())
        total = len(found) + len(expected)
        scores.append(2 * both / total if total else 1.0)
    return sum(scores) / len(scores) if scores else math.nan


def slot_value_cer(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus CER between each reference value and the nearest hypothesis value of its type."""
    return _slot_value_error(hypotheses, references, character_error_rate)


def slot_value_wer(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """As ``slot_value_cer`` with words."""
    return _slot_value_error(hypotheses, references, word_error_rate)


def slot_edit_f1(
    hypotheses: Sequence[str], references: Sequence[str], *, count_unknown_types: bool
) -> float:
    """F1 of exactly matching values in percent, as published (not a fraction).

    Args:
        hypotheses, references: one text an utterance.
        count_unknown_types: values of types that the reference lacks are insertions ("full"), else
            they are ignored ("part").
    """
    matched = missed = added = 0
    for found, expected in _slots(hypotheses, references):
        for slot, values in expected.items():
            hits = sum(value in found.get(slot, ()) for value in values)
            matched += hits
            missed += len(values) - hits
            # A wrong value is missed and added; one of a type that was not found is only missed.
            added += len(values) - hits if slot in found else 0
        if count_unknown_types:
            added += sum(len(values) for slot, values in found.items() if slot not in expected)
    total = 2 * matched + missed + added
    return 200.0 * matched / total if total else math.nan


def value_pairs(
    hypotheses: Sequence[str],
    references: Sequence[str],
    error_rate: ErrorRate = character_error_rate,
) -> list[tuple[str, str]]:
    """Each reference value behind the nearest hypothesis value of its type, "" where none is near.

    Args:
        hypotheses, references: one text an utterance.
        error_rate: what "near" means.
    """
    pairs = []
    for found, expected in _slots(hypotheses, references):
        for slot, values in expected.items():
            for value in values:
                rated = [(error_rate([other], [value]), other) for other in found.get(slot, ())]
                rate, nearest = min(rated, key=lambda pair: pair[0], default=(WORST_RATE, ""))
                pairs.append((nearest if rate < WORST_RATE else "", value))
    return pairs


def _slot_value_error(
    hypotheses: Sequence[str], references: Sequence[str], error_rate: ErrorRate
) -> float:
    pairs = value_pairs(hypotheses, references, error_rate)
    return error_rate([hyp for hyp, _ in pairs], [ref for _, ref in pairs])


def _slots(hypotheses: Sequence[str], references: Sequence[str]) -> list[tuple[Slots, Slots]]:
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    # Unclosed slot tokens inside a value are an error of the hypothesis only; the reference is
    # taken as written.
    return [
        (_parse(hypothesis, strip_tokens=True), _parse(reference, strip_tokens=False))
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]


def _parse(text: str, *, strip_tokens: bool) -> Slots:
    slots: Slots = {}
    for slot, value in SLOT.findall(re.sub(r" +", " ", text)):
        if strip_tokens:
            value = CLOSING.sub("", OPENING.sub("", value))
        slots.setdefault(slot, []).append(value)
    return slots
