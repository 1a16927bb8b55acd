from __future__ import annotations

import numpy as np
import pytest

from ssl_audio.probes.metrics.knn import knn_class_scores
from ssl_audio.probes.metrics.xares import knn_as_published


@pytest.fixture
def clusters():
    rng = np.random.default_rng(0)
    centres = 3 * rng.standard_normal((3, 8))
    labels = np.arange(60) % 3
    return centres[labels] + rng.standard_normal((60, 8)), labels


def test_nearest_cluster_wins(clusters):
    features, labels = clusters
    scores = knn_class_scores(features[:45], labels[:45], features[45:], num_classes=3, k=7)
    np.testing.assert_allclose(scores.sum(1), 1)
    assert (scores.argmax(1) == labels[45:]).mean() > 0.9


def test_votes_of_one_query_by_hand():
    angles = np.deg2rad([0, 20, 50, 90])
    train = 5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)  # norms play no part
    got = knn_class_scores(
        train, np.array([0, 1, 1, 0]), np.array([[2.0, 0.0]]), num_classes=3, k=3, temperature=0.1
    )
    weights = np.exp(np.cos(angles[:3]) / 0.1)
    want = np.array([weights[0], weights[1] + weights[2], 0]) / weights.sum()
    np.testing.assert_allclose(got[0], want)


def test_more_neighbours_than_clips_and_low_temperatures(clusters):
    features, labels = clusters
    for temperature in (1e-4, 0.07):
        scores = knn_class_scores(
            features[:5], labels[:5], features, num_classes=3, k=200, temperature=temperature
        )
        assert np.isfinite(scores).all()


def test_published_variant_mixes_up_norms_of_clips():
    train = np.array([[1.0, 0.0], [40.0, 40.0]])  # by angle, the query is the first clip
    given = train, np.array([0, 1]), np.array([[1.0, 0.1]])
    assert knn_class_scores(*given, num_classes=2, k=2).argmax() == 0
    assert knn_as_published(*given, num_classes=2, k=2).argmax() == 1


def test_bad_input_is_one_line(clusters):
    features, labels = clusters
    with pytest.raises(ValueError, match="at least one train clip"):
        knn_class_scores(features[:0], labels[:0], features, num_classes=3)
    with pytest.raises(ValueError, match=r"must lie in 0 \.\. 1, got 2"):
        knn_class_scores(features, labels, features, num_classes=2)
    features[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        knn_class_scores(features, labels, features, num_classes=3)
