from __future__ import annotations

import math

import pytest
import torch

from ssl_audio.probes.collapse import mean_cosine, rank_me, spread


def test_rank_counts_directions():
    generator = torch.Generator().manual_seed(0)
    wide = torch.linalg.qr(torch.randn(64, 10, generator=generator)).Q
    assert rank_me(wide) == pytest.approx(10, abs=0.1)
    narrow = wide[:, :2] @ torch.randn(2, 10, generator=generator)
    assert rank_me(narrow) < 2.1


def test_mean_cosine_is_that_of_all_pairs():
    features = torch.randn(20, 5, generator=torch.Generator().manual_seed(1)) + 0.5
    unit = torch.nn.functional.normalize(features, dim=1)
    pairs = (unit @ unit.T)[~torch.eye(20, dtype=torch.bool)]
    assert mean_cosine(features) == pytest.approx(float(pairs.mean()), abs=1e-6)


def test_alarm_of_healthy_and_collapsed_features():
    features = torch.randn(50, 8, generator=torch.Generator().manual_seed(2))
    assert spread(features).alarm() is None
    assert "directions" in str(spread(torch.ones(50, 8)).alarm())
    nearly = torch.ones(50, 8) + 0.01 * features
    assert "mean cosine" in str(spread(nearly).alarm(min_rank=1.0))


def test_no_value_without_pairs_or_with_nan():
    assert math.isnan(mean_cosine(torch.ones(1, 3)))
    assert math.isnan(rank_me(torch.empty(0, 3)))
    features = torch.ones(4, 3)
    features[0, 0] = torch.nan
    assert "NaN" in str(spread(features).alarm())
    assert spread(torch.zeros(4, 3)).mean_cosine == 0
