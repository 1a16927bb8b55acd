from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from ssl_audio.probes.metrics import accuracy, bootstrap_interval, macro_f1


def test_macro_f1_equals_scikit_learn():
    rng = np.random.default_rng(0)
    for classes in (2, 5, 12):
        target, predicted = rng.integers(0, classes, (2, 60))
        expected = f1_score(target, predicted, average="macro", zero_division=0)
        assert macro_f1(predicted, target) == pytest.approx(expected)


def test_empty_input_is_nan():
    empty = np.array([], dtype=np.int64)
    assert math.isnan(accuracy(empty, empty))
    assert math.isnan(macro_f1(empty, empty))
    assert all(math.isnan(x) for x in bootstrap_interval(empty, [], seed=0))


def test_interval_of_independent_examples_is_near_the_normal_one():
    correct = np.arange(400) % 4 != 0
    low, high = bootstrap_interval(correct, [str(i) for i in range(400)], seed=1)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - half, abs=0.01)
    assert high == pytest.approx(0.75 + half, abs=0.01)


def test_examples_of_one_clip_widen_the_interval():
    correct = np.repeat(np.arange(20) % 4 != 0, 20)
    clips = [str(i // 20) for i in range(400)]
    wide = bootstrap_interval(correct, clips, seed=1)
    narrow = bootstrap_interval(correct, [str(i) for i in range(400)], seed=1)
    assert wide[1] - wide[0] > 2.5 * (narrow[1] - narrow[0])


def test_interval_is_reproducible_and_degenerate_for_perfect_scores():
    perfect = np.ones(10, dtype=bool)
    assert bootstrap_interval(perfect, list("abcdefghij"), seed=3) == (1.0, 1.0)
