from __future__ import annotations

import math

import numpy as np
import pytest
from torchmetrics.functional.text import char_error_rate
from torchmetrics.functional.text import word_error_rate as torchmetrics_wer

from ssl_audio.probes.metrics.error_rates import (
    character_error_rate,
    edit_distance,
    token_error_rate,
    word_error_rate,
)


def random_texts(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    words = ["one", "two", "three", "oh", "zero"]
    return [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(count)]


def test_equal_to_torchmetrics():
    hypotheses, references = random_texts(30, 0), random_texts(30, 1)
    assert word_error_rate(hypotheses, references) == pytest.approx(
        float(torchmetrics_wer(hypotheses, references))
    )
    assert character_error_rate(hypotheses, references) == pytest.approx(
        float(char_error_rate(hypotheses, references))
    )


@pytest.mark.parametrize(
    ("hypothesis", "reference", "edits"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("", "", 0), ("abc", "cab", 2)],
)
def test_edit_distance(hypothesis, reference, edits):
    assert edit_distance(hypothesis, reference) == edits


def test_rates_are_of_the_corpus():
    assert token_error_rate([[1], [2, 2, 2]], [[9], [2, 2, 2]]) == pytest.approx(1 / 4)
    assert word_error_rate([""], ["a b"]) == 1.0
    assert math.isnan(token_error_rate([], []))


def test_different_numbers_of_utterances():
    with pytest.raises(ValueError, match="2 hypotheses for 1 references"):
        word_error_rate(["a", "b"], ["a"])
