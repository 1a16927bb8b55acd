"""Multinomial logistic regression for every penalty of a grid at once.

The optimum is that of scikit-learn's ``LogisticRegression(C=...)``: summed cross-entropy in nats
plus ``||W||^2 / (2 C)``, intercepts unpenalised. (Two classes have two logits here and one there:
the same optimum has half their C.)

Rotating the features to their principal axes and scaling each axis by the fixed curvature bound of
Böhning (1992, "Multinomial logistic regression algorithm") makes the problem smooth with constant
1, so accelerated gradient steps (Beck & Teboulle 2009; restarts of O'Donoghue & Candès 2015) need
no line search, and all penalties share the two large matrix products of a step.

Axes: N examples, D channels, R principal axes (at most min(N, D)), P penalties, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RELATIVE_RANK = 1e-7  # principal axes with less of the largest variance are rounding noise


@dataclass(frozen=True, slots=True)
class Standardiser:
    """Centres and scales channels with the statistics of the training split."""

    mean: Tensor
    inverse_std: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> Standardiser:
        """(N, D) to its statistics; channels that do not vary are mapped to 0."""
        std, mean = torch.std_mean(features.double(), dim=0, correction=0)
        varies = std > 1e-6 * mean.abs().clamp(min=1e-6)
        inverse = torch.where(varies, 1 / std.clamp(min=1e-30), 0.0)
        return cls(mean.float(), inverse.float())

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) * self.inverse_std


@dataclass(frozen=True, slots=True)
class LogisticPath:
    """``weight`` (P, D, K) and ``bias`` (P, K), one model per penalty."""

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """(N, D) to unnormalised log-probabilities under each penalty, (P, N, K)."""
        return features @ self.weight + self.bias[:, None]


def fit_logistic_path(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    inverse_penalties: Sequence[float],
    *,
    max_iters: int = 200,
    tolerance: float = 1e-4,
) -> LogisticPath:
    """Fits one model per entry of ``inverse_penalties`` (scikit-learn's C).

    Args:
        features: (N, D) float32, standardised.
        labels: (N,) int64 in 0 .. num_classes - 1.
        num_classes: K.
        inverse_penalties: P values of C.
        max_iters: of the accelerated gradient method.
        tolerance: stop when no entry of the scaled gradient of the mean loss exceeds it.
    """
    count = len(labels)
    scores, axes, curvature = principal_axes(features)
    design = torch.cat([scores, torch.ones(count, 1)], dim=1)
    curvature = torch.cat([curvature, torch.ones(1)])
    penalty = 1 / (torch.tensor(list(inverse_penalties), dtype=torch.float32)[:, None] * count)
    penalty = penalty.expand(-1, design.shape[1]).clone()
    penalty[:, -1] = 0.0  # the intercept
    step = torch.rsqrt(curvature / 2 + penalty)[..., None]  # (P, R + 1, 1)
    targets = F.one_hot(labels, num_classes).float()[:, None]

    def scaled_gradient(point: Tensor) -> Tensor:
        """Gradient of the mean loss in the scaled coordinates, (P, R + 1, K)."""
        weight = step * point
        stacked = weight.transpose(0, 1).flatten(1)
        logits = (design @ stacked).view(count, -1, num_classes)
        residual = (logits.softmax(-1) - targets).flatten(1)
        gradient = (design.T @ residual).view(len(stacked), -1, num_classes).transpose(0, 1)
        return step * (gradient / count + penalty[..., None] * weight)

    solution = torch.zeros(len(penalty), design.shape[1], num_classes)
    point, inertia = solution, torch.ones(len(penalty), 1, 1)
    for _ in range(max_iters):
        gradient = scaled_gradient(point)
        if gradient.abs().max() < tolerance:
            break
        following = point - gradient
        # Momentum that points uphill is dropped, separately for each penalty.
        uphill = (gradient * (following - solution)).sum((1, 2), keepdim=True) > 0
        inertia = torch.where(uphill, 1.0, inertia)
        grown = (1 + torch.sqrt(1 + 4 * inertia**2)) / 2
        point = following + (inertia - 1) / grown * (following - solution)
        solution, inertia = following, grown
    weight = step * solution
    return LogisticPath(axes @ weight[:, :-1], weight[:, -1])


def principal_axes(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, D) centred to scores (N, R), axes (D, R) and variances (R,) of its principal axes."""
    count, dim = features.shape
    wide = dim > count
    exact = features.double()
    gram = (exact @ exact.T if wide else exact.T @ exact) / count
    variances, vectors = torch.linalg.eigh(gram)
    keep = variances > RELATIVE_RANK * variances[-1].clamp(min=1e-30)
    variances, vectors = variances[keep], vectors[:, keep]
    axes = exact.T @ vectors / torch.sqrt(variances * count) if wide else vectors
    axes = axes.float()
    return features @ axes, axes, variances.float()
