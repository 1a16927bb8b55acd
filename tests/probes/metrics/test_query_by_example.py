from __future__ import annotations

import math

import numpy as np
import pytest

from ssl_audio.probes.metrics.query_by_example import (
    Documents,
    maximum_term_weighted_value,
    standardised_query_scores,
)


@pytest.fixture
def query():
    return np.random.default_rng(0).standard_normal((8, 6))


def documents(query):
    rng = np.random.default_rng(1)
    hit = np.concatenate([rng.standard_normal((7, 6)), query, rng.standard_normal((4, 6))])
    stretched = np.concatenate([rng.standard_normal((3, 6)), query.repeat(2, axis=0)])
    return [rng.standard_normal((n, 6)) for n in (5, 1, 20)] + [hit, stretched]


def test_a_contained_query_costs_nothing(query):
    scores = Documents(documents(query)).scores(query, scale_rows=False)
    assert scores[3] == pytest.approx(0, abs=1e-12)
    assert scores[4] == pytest.approx(0, abs=1e-12)  # two document frames per step
    assert scores[:3].max() < -0.1


@pytest.mark.parametrize("scale_rows", [True, False])
def test_documents_do_not_touch(query, scale_rows):
    found = documents(query)
    together = Documents(found).scores(query, scale_rows=scale_rows)
    alone = [Documents([one]).scores(query, scale_rows=scale_rows)[0] for one in found]
    np.testing.assert_allclose(together, alone, atol=1e-12)


def test_standardised_scores(query):
    scores = standardised_query_scores(query, np.array([1.0, 2.0, 3.0]))
    assert scores.mean() == pytest.approx(0)
    assert scores.std() == pytest.approx(1)
    assert standardised_query_scores(query[:4], np.array([1.0, 2.0])).tolist() == [0, 0]
    assert standardised_query_scores(query, np.array([2.0, 2.0])).tolist() == [0, 0]


def test_nothing_to_search(query):
    with pytest.raises(ValueError, match="at least one frame"):
        Documents([])
    with pytest.raises(ValueError, match="at least one frame"):
        Documents([query, query[:0]])
    with pytest.raises(ValueError, match="at least one frame"):
        Documents([query]).scores(query[:0])


def test_term_weighted_value_by_hand():
    scores = np.array([[3.0, 2.0, 1.0, 0.0], [2.5, 0.5, 2.0, 1.5], [9.0, 9.0, 9.0, 9.0]])
    relevant = np.array([[1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    # At 2.5: query 1 misses one of two, query 2 none, no false alarm; the third does not count.
    assert maximum_term_weighted_value(scores, relevant, false_alarm_weight=10) == 0.75
    # At 1.0 all is found, with 1 of 2 and 2 of 3 false alarms.
    cheap = maximum_term_weighted_value(scores, relevant, false_alarm_weight=0.1)
    assert cheap == pytest.approx(1 - 0.1 * (1 / 2 + 2 / 3) / 2)


def test_queries_and_documents_without_scores_find_nothing():
    rng = np.random.default_rng(2)
    scores, relevant = rng.standard_normal((5, 7)), rng.random((5, 7)) < 0.3
    relevant[:, 0] = True
    silent = np.full((9, 12), -100.0)
    silent[:5, :7] = scores
    everything = np.zeros((9, 12), dtype=bool)
    everything[:5, :7] = relevant
    everything[5:, 11] = True
    value = maximum_term_weighted_value(silent, everything, false_alarm_weight=3.0)
    assert 0 < value < 5 / 9
    part = maximum_term_weighted_value(
        scores, relevant, false_alarm_weight=3.0, num_queries=9, num_documents=12
    )
    assert part == pytest.approx(value)


def test_equal_scores_are_found_together():
    relevant = np.array([[True, False]])
    same = maximum_term_weighted_value(np.zeros((1, 2)), relevant, false_alarm_weight=0.25)
    assert same == 0.75
    none = maximum_term_weighted_value(np.zeros((1, 2)), relevant, false_alarm_weight=2)
    assert none == 0.0
    assert math.isnan(
        maximum_term_weighted_value(np.zeros((1, 2)), ~relevant & False, false_alarm_weight=1)
    )
