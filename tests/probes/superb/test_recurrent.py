"""Heads over frames: shapes, padding, SpecAugment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ssl_audio.probes.superb.augmentation import SpecAugmented, stretches, time_warped
from ssl_audio.probes.superb.recurrent import (
    FrameLinear,
    MaskEstimator,
    RecurrentTranscriber,
    SpeakerActivity,
)

LSTM: dict[str, Any] = {"hidden": 4, "layers": 2, "dropout": 0.2}
AUGMENT = {"warp": 5, "time_masks": 2, "max_frames": 40, "channel_masks": 4, "max_channels": 50}
HEADS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: FrameLinear(6, 4, 5),
    "transcriber": lambda: RecurrentTranscriber(6, 5, **LSTM),
    "projected": lambda: RecurrentTranscriber(6, 5, **LSTM, projections=True, keep_every=2),
    "activity": lambda: SpeakerActivity(6, 4, 2),
    "augmented": lambda: SpecAugmented(RecurrentTranscriber(6, 5, **LSTM), **AUGMENT),
}


@pytest.mark.parametrize("name", HEADS)
def test_padding_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    head, frames = HEADS[name]().eval(), torch.randn(3, 20, 6)
    lengths = torch.tensor([20, 13, 1])
    outputs, kept = head(frames, lengths)
    assert kept.tolist() == ([10, 7, 1] if name == "projected" else [20, 13, 1])
    for row, (length, count) in enumerate(zip(lengths.tolist(), kept.tolist(), strict=True)):
        alone, _ = head(frames[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(outputs[row, :count], alone[0])


def test_masks_are_one_per_source_and_not_negative() -> None:
    torch.manual_seed(0)
    head = MaskEstimator(6, 9, 2, **LSTM).eval()
    frames, lengths = torch.randn(3, 20, 6), torch.tensor([20, 13, 1])
    masks, _ = head(frames, lengths)
    assert masks.shape == (3, 2, 20, 9)
    assert masks.min() == 0 < masks.max()
    alone, _ = head(frames[1:2, :13], lengths[1:2])
    torch.testing.assert_close(masks[1, :, :13], alone[0])


def test_spec_augment_hides_stretches_in_training_only() -> None:
    torch.manual_seed(0)

    class Same(nn.Module):
        def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple:
            return frames, lengths

    head = SpecAugmented(
        Same(), warp=0, time_masks=2, max_frames=8, channel_masks=1, max_channels=3
    )
    frames, lengths = torch.ones(64, 30, 10), torch.full((64,), 20)
    assert head.eval()(frames, lengths)[0] is frames
    hidden = head.train()(frames, lengths)[0] == 0
    assert not hidden[:, 20:].all(2).any()  # time masks lie in the valid part
    by_time, by_channel = hidden.all(2).sum(1), hidden.all(1).sum(1)
    assert by_time.max() <= 2 * 7
    assert by_channel.max() == 2
    assert by_time.float().mean() > 3


def test_stretches_fit_short_rows() -> None:
    torch.manual_seed(0)
    found = stretches(torch.tensor([1, 3, 50]).repeat(50), 50, 2, 40)
    assert not found[0::3, 1:].any()
    assert not found[1::3, 3:].any()
    assert found[2::3].any(0).all()


def test_time_warp_moves_the_middle_and_keeps_the_ends() -> None:
    torch.manual_seed(0)
    ramp = torch.arange(40.0)[:, None].expand(-1, 4)
    warped = time_warped(ramp, 30, 5)
    assert warped.shape == ramp.shape
    assert torch.equal(warped[30:], ramp[30:])
    moved = (warped[:30, 0] - ramp[:30, 0]).abs()
    assert 0.5 < moved.max() <= 6
    assert moved[[0, 29]].max() < 1
    assert torch.equal(time_warped(ramp, 10, 5), ramp)
