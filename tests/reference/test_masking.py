"""Statistics of span masks against the first author's sampler."""

from __future__ import annotations

import re

import pytest
import torch

from ssl_audio.tasks.masking import span_mask

SETTING = re.compile(
    r"(?P<axis>time|channel)_T(?P<size>\d+)_p(?P<prob>[\d.]+)_l(?P<span>\d+)\.mean"
)
MIN_MASKS = {"time": 2, "channel": 0}


def test_covered_fraction(golden) -> None:
    for case in golden("spear/mask_statistics*"):
        for name, (mean, std, low, high) in case.tensors.items():
            setting = SETTING.match(name)
            assert setting, f"{case.name}: {name} is not a setting"
            num_clips = int(case.meta["samples"])
            covered = span_mask(
                torch.full((num_clips,), int(setting["size"])),
                float(setting["prob"]),
                int(setting["span"]),
                torch.arange(num_clips),
                seed=0,
                purpose=setting["axis"],
                min_masks=MIN_MASKS[setting["axis"]],
            )
            fraction = covered.double().mean(1)
            assert fraction.mean().item() == pytest.approx(mean.item(), abs=0.01), name
            assert fraction.std().item() == pytest.approx(std.item(), rel=0.1), name
            # Extremes of as many draws, give or take a few spans.
            slack = 3 * std.item()
            assert low - slack <= fraction.min() <= low + slack, name
            assert high - slack <= fraction.max() <= high + slack, name
