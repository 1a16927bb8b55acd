from __future__ import annotations

import pytest
import torch

from ssl_audio.tokenizers import NormThreshold
from ssl_audio.tokenizers.norm_threshold import fit_norm_statistics, gaussian_boundary

SYLBER = {"signal_mean": 6.1, "signal_var": 0.87, "noise_mean": 0.34, "noise_var": 0.34}


def test_both_classes_are_equally_likely_there():
    module = NormThreshold(**SYLBER, decay=0.9999)
    threshold = module()
    signal = torch.distributions.Normal(6.1, 0.87**0.5)
    noise = torch.distributions.Normal(0.34, 0.34**0.5)
    torch.testing.assert_close(signal.log_prob(threshold), noise.log_prob(threshold), atol=1e-4,
                               rtol=1e-4)  # fmt: skip
    assert threshold.item() == pytest.approx(2.59989, abs=1e-5)


def test_equal_variances_are_the_limit():
    def boundary(noise_var):
        return gaussian_boundary(*map(torch.tensor, (4.0, 0.5, 1.0, noise_var))).item()

    assert boundary(0.5) == 2.5
    assert boundary(0.5 + 1e-6) == pytest.approx(2.5, abs=1e-4)


def test_statistics_move_towards_the_norms():
    module = NormThreshold(**SYLBER, decay=0.0)
    norms = torch.tensor([[5.0, 7.0, 0.1], [0.3, 0.0, 100.0]])
    speech = torch.tensor([[True, True, False], [False, False, False]])
    silence = torch.tensor([[False, False, True], [True, False, False]])  # the rest is padding
    module.update(norms, speech, norms, silence)
    assert module.signal_mean.item() == pytest.approx(6.0)
    assert module.signal_var.item() == pytest.approx(1.0)
    assert module.noise_mean.item() == pytest.approx(0.2)
    assert module.noise_var.item() == pytest.approx(0.01, abs=1e-6)


def test_a_batch_without_silence_leaves_noise_alone():
    module = NormThreshold(**SYLBER, decay=0.9)
    norms = torch.full((2, 5), 8.0)
    everything = torch.ones_like(norms, dtype=torch.bool)
    module.update(norms, everything, norms, ~everything)
    assert module.noise_mean.item() == pytest.approx(0.34)
    assert module.signal_mean.item() > 6.1
    assert torch.isfinite(module())


@pytest.mark.parametrize(
    "changed", [{"signal_mean": 0.1}, {"noise_var": -1.0}, {"decay": 1.5}, {"eta": 0.0}]
)
def test_bad_arguments_are_named(changed):
    with pytest.raises(ValueError, match=next(iter(changed)).split("_")[0]):
        NormThreshold(**({**SYLBER, "decay": 0.99} | changed))


def test_ranks_move_together(monkeypatch):
    """Moments of two ranks, by hand, against one process that sees the norms of both."""
    norms = [torch.tensor([5.0, 6.0, 0.2]), torch.tensor([9.0, 0.1, 0.4])]
    speech = [x > 1 for x in norms]

    def module():
        return NormThreshold(**SYLBER, decay=0.5)

    whole, rank = module(), module()
    together, mask = torch.cat(norms), torch.cat(speech)
    whole.update(together, mask, together, ~mask)
    gathered = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", gathered.append)
    other = module()
    other.update(norms[1], speech[1], norms[1], ~speech[1])
    moments = gathered[0].clone()
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x: x.add_(moments))
    rank.update(norms[0], speech[0], norms[0], ~speech[0])
    torch.testing.assert_close(rank.state_dict(), whole.state_dict())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_statistics_of_a_mixture_are_found_without_labels(share):
    torch.manual_seed(0)
    speech = torch.rand(20_000) < share
    norms = torch.where(
        speech, 6.1 + 0.93 * torch.randn(20_000), (0.34 + 0.1 * torch.randn(20_000)).abs()
    )
    found = fit_norm_statistics(norms)
    assert found["signal_mean"] == pytest.approx(6.1, abs=0.1)
    assert found["signal_var"] == pytest.approx(0.87, rel=0.15)
    assert found["noise_mean"] == pytest.approx(0.34, abs=0.05)
    threshold = NormThreshold(**found, decay=1.0)().item()
    assert ((norms >= threshold) == speech).float().mean() > 0.99


def test_two_values_are_two_classes_and_one_value_is_none():
    found = fit_norm_statistics(torch.tensor([1.0, 1.0, 4.0]))
    assert (found["noise_mean"], found["signal_mean"]) == (1.0, 4.0)
    with pytest.raises(ValueError, match="have the same norm"):
        fit_norm_statistics(torch.full((5,), 3.0))
