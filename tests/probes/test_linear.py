from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from ssl_audio.probes.linear import Standardiser, fit_logistic_path


def problem(count: int, dim: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated, noisy features that are not separable when count > dim."""
    generator = torch.Generator().manual_seed(count + dim)
    low = torch.randn(count, 10, generator=generator)
    features = low @ torch.randn(10, dim, generator=generator)
    features += 0.3 * torch.randn(count, dim, generator=generator)
    scores = low @ torch.randn(10, classes, generator=generator)
    labels = (scores + 2 * torch.randn(count, classes, generator=generator)).argmax(1)
    return Standardiser.fit(features)(features), labels


@pytest.mark.parametrize(("count", "dim", "classes"), [(200, 30, 4), (60, 150, 3), (120, 8, 2)])
def test_reaches_the_optimum_of_scikit_learn(count, dim, classes):
    features, labels = problem(count, dim, classes)
    grid = (1e-3, 1e-2, 1e-1)
    path = fit_logistic_path(features, labels, classes, grid, max_iters=1000, tolerance=1e-6)
    for index, c in enumerate(grid):
        # For two classes scikit-learn penalises one logit, this one splits it over two.
        peer = LogisticRegression(C=c if classes > 2 else 2 * c, tol=1e-8, max_iter=5000)
        peer.fit(features.double().numpy(), labels.numpy())
        ours = path.logits(features)[index].softmax(-1).numpy()
        np.testing.assert_allclose(ours, peer.predict_proba(features.double().numpy()), atol=2e-3)


def test_default_effort_is_enough_for_the_same_predictions():
    features, labels = problem(300, 60, 6)
    grid = (1e-4, 1e-2, 1.0)
    few = fit_logistic_path(features, labels, 6, grid, max_iters=100).logits(features)
    many = fit_logistic_path(features, labels, 6, grid, max_iters=3000).logits(features)
    assert (few.argmax(-1) == many.argmax(-1)).float().mean(1).min() > 0.97


def test_penalties_do_not_influence_each_other():
    features, labels = problem(100, 20, 3)
    both = fit_logistic_path(features, labels, 3, (1e-2, 1.0), max_iters=50)
    alone = fit_logistic_path(features, labels, 3, (1.0,), max_iters=50)
    torch.testing.assert_close(both.weight[1], alone.weight[0], atol=1e-4, rtol=1e-3)


def test_intercepts_answer_the_class_frequencies_when_features_say_nothing():
    labels = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)
    path = fit_logistic_path(torch.zeros(100, 5), labels, 3, (1.0,), max_iters=500)
    expected = torch.tensor([0.7, 0.2, 0.1])
    probabilities = F.softmax(path.bias[0], dim=-1)
    torch.testing.assert_close(probabilities, expected, atol=1e-3, rtol=0)


def test_standardiser_uses_training_statistics_and_silences_constant_channels():
    train = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    standardise = Standardiser.fit(train)
    torch.testing.assert_close(standardise(train), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    other = torch.tensor([[5.0, 9.0]])
    torch.testing.assert_close(standardise(other), torch.tensor([[3.0, 0.0]]))
