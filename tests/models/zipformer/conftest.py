"""A Zipformer of four layers that runs in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ssl_audio.models import Zipformer

TINY: dict[str, Any] = {
    "num_mel_bins": 20,
    "embed_channels": (2, 4, 8),
    "downsampling_factor": (1, 2, 4),
    "num_encoder_layers": (1, 2, 1),
    "encoder_dim": (16, 24, 16),
    "encoder_unmasked_dim": (8, 16, 8),
    "feedforward_dim": 32,
    "cnn_module_kernel": (7, 5, 3),
    "num_heads": 2,
    "query_head_dim": 8,
    "value_head_dim": 6,
    "pos_dim": 8,
}


@pytest.fixture
def tiny() -> Callable[..., Zipformer]:
    """``tiny(**changes)``: a seeded model in eval mode."""

    def build(**changes: Any) -> Zipformer:
        torch.manual_seed(0)
        return Zipformer(**TINY | changes).eval()

    return build
