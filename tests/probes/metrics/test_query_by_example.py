from __future__ import annotations

import numpy as np
import pytest

from ssl_audio.probes.metrics.query_by_example import query_scores, standardised_query_scores


@pytest.fixture
def query():
    return np.random.default_rng(0).standard_normal((8, 6))


def documents(query):
    rng = np.random.default_rng(1)
    hit = np.concatenate([rng.standard_normal((7, 6)), query, rng.standard_normal((4, 6))])
    stretched = np.concatenate([rng.standard_normal((3, 6)), query.repeat(2, axis=0)])
    return [rng.standard_normal((n, 6)) for n in (5, 1, 20)] + [hit, stretched]


def test_a_contained_query_costs_nothing(query):
    scores = query_scores(query, documents(query), scale_rows=False)
    assert scores[3] == pytest.approx(0, abs=1e-12)
    assert scores[4] == pytest.approx(0, abs=1e-12)  # two document frames per step
    assert scores[:3].max() < -0.1


@pytest.mark.parametrize("scale_rows", [True, False])
def test_documents_do_not_touch(query, scale_rows):
    found = documents(query)
    together = query_scores(query, found, scale_rows=scale_rows)
    alone = [query_scores(query, [document], scale_rows=scale_rows)[0] for document in found]
    np.testing.assert_allclose(together, alone, atol=1e-12)


def test_standardised_scores(query):
    scores = standardised_query_scores(query, np.array([1.0, 2.0, 3.0]))
    assert scores.mean() == pytest.approx(0)
    assert scores.std() == pytest.approx(1)
    assert standardised_query_scores(query[:4], np.array([1.0, 2.0])).tolist() == [0, 0]
    assert standardised_query_scores(query, np.array([2.0, 2.0])).tolist() == [0, 0]


def test_empty_documents(query):
    assert len(query_scores(query, [])) == 0
    with pytest.raises(ValueError, match="at least one frame"):
        query_scores(query, [query, query[:0]])
