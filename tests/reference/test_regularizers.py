"""Gradients of Zipformer's identity-forward regularisers against icefall's ``scaling.py``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_audio.models.zipformer.balancer import Balancer
from ssl_audio.models.zipformer.bypass import Bypass
from ssl_audio.models.zipformer.feed_forward import DROPOUT
from ssl_audio.models.zipformer.layer import FEED_FORWARD_SKIP, MODULE_SKIP
from ssl_audio.models.zipformer.limits import limit_parameter, penalize_large
from ssl_audio.models.zipformer.schedules import constant
from ssl_audio.models.zipformer.whiten import Whiten, whitening_metric


class Rules:
    """The tensors of one file."""

    def __init__(self, golden: Any) -> None:
        self.tensors, self.meta = golden.tensors, golden.meta

    def cases(self, pattern: str) -> list[re.Match[str]]:
        """One match per case, a tensor prefix that ``pattern`` describes."""
        prefixes = sorted({name.split(".")[0] for name in self.tensors})
        found = [match for prefix in prefixes if (match := re.fullmatch(pattern, prefix))]
        assert found, pattern
        return found

    def check(self, case: str, function: Callable[[Tensor], Tensor], **tolerance: float) -> None:
        """``function`` is the identity and turns ``grad_out`` into ``grad_in``."""
        x = self.tensors[f"{case}.x"].clone().requires_grad_()
        y = function(x)
        assert torch.equal(y, x)
        y.backward(self.tensors[f"{case}.grad_out"])
        torch.testing.assert_close(x.grad, self.tensors[f"{case}.grad_in"], **tolerance)


@pytest.fixture(scope="module")
def files(golden: Callable[[str], list[Any]]) -> list[Rules]:
    return [Rules(file) for file in golden("spear/training_regularisers*")]


def test_balancer(files: list[Rules]) -> None:
    for file in files:
        for case in file.cases(r"balancer\d+"):
            limits = file.tensors[f"{case[0]}.cfg_minpos_maxpos_minabs_maxabs"].tolist()
            scale = float(file.meta["balancer_grad_scale"])
            balancer = Balancer(-1, *limits, grad_scale=scale, prob=1.0)
            file.check(case[0], balancer, rtol=1e-3, atol=1e-5)


def test_whiten(files: list[Rules]) -> None:
    for file in files:
        for case in file.cases(r"whiten_g(\d+)_lim([\d.]+)"):
            groups, limit = int(case[1]), float(case[2])
            scale = float(file.meta["whiten_grad_scale"])
            whiten = Whiten(groups, constant(limit), grad_scale=scale)
            whiten.prob = 1.0
            file.check(case[0], whiten, rtol=1e-3, atol=1e-5)
            metric, _ = whitening_metric(file.tensors[f"{case[0]}.x"], groups)
            expected = file.tensors[f"{case[0]}.metric"]
            torch.testing.assert_close(metric, expected, rtol=1e-4, atol=0)
            assert whiten.last_look is not None
            assert bool(whiten.last_look) == bool(expected >= limit)


def test_limits(files: list[Rules]) -> None:
    for file in files:
        file.check("limit_param", lambda x: limit_parameter(x, 0.2, 1.0))
        file.check("penalize_abs", lambda x: penalize_large(x, limit=25.0, penalty=1e-4))


def test_softmax(files: list[Rules]) -> None:
    for file in files:
        x = file.tensors["softmax.x"].clone().requires_grad_()
        y = (3 * x).softmax(dim=-1)
        torch.testing.assert_close(y, file.tensors["softmax.y"])
        y.backward(file.tensors["softmax.grad_out"])
        torch.testing.assert_close(x.grad, file.tensors["softmax.grad_in"])


def test_schedules(files: list[Rules]) -> None:
    ours = {
        "attention_skip": MODULE_SKIP,
        "balancer_prob": Balancer().prob,
        "bypass_min": Bypass(1).lowest,
        "dropout": DROPOUT,
        "ff_skip": FEED_FORWARD_SKIP,
    }
    for file in files:
        counts = file.tensors["schedule.batch_count"].tolist()
        names = {name for name in file.tensors if name.startswith("schedule.")}
        assert names == {f"schedule.{name}" for name in ours} | {"schedule.batch_count"}
        for name, schedule in ours.items():
            expected = file.tensors[f"schedule.{name}"].tolist()
            assert [schedule(count) for count in counts] == pytest.approx(expected, abs=1e-7)
