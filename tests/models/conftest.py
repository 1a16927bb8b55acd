"""Clips and weights for encoders that must not see their batch neighbours."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def clips() -> list[Tensor]:
    """Noise of unlike lengths, levels and offsets."""
    generator = torch.Generator().manual_seed(1)
    return [
        scale * torch.randn(num_samples, generator=generator) + 0.1
        for num_samples, scale in ((4000, 0.3), (2711, 0.05), (1200, 0.5))
    ]


@pytest.fixture
def padded(clips: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The clips as one batch, and their lengths."""
    lengths = torch.tensor([len(clip) for clip in clips])
    return nn.utils.rnn.pad_sequence(clips, batch_first=True), lengths


@pytest.fixture
def randomized() -> Callable[[nn.Module], nn.Module]:
    """Moves every parameter away from its initial value, so that one left unloaded shows."""

    def move(model: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        return model

    return move
