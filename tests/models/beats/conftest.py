"""A BEATs of two layers that runs in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ssl_audio.models import BeatsEncoder

TINY: dict[str, Any] = {
    "embed_dim": 12,
    "encoder_layers": 2,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24,
    "encoder_attention_heads": 2,
    "conv_pos": 6,
    "conv_pos_groups": 2,
    "num_buckets": 16,
    "max_distance": 40,
    "layer_wise_gradient_decay_ratio": 1.0,
    "encoder_layerdrop": 0.0,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "dropout_input": 0.0,
}


@pytest.fixture
def tiny() -> Callable[..., BeatsEncoder]:
    """``tiny(**changes)``: a seeded model in eval mode, every weight away from its start."""

    def build(**changes: Any) -> BeatsEncoder:
        torch.manual_seed(0)
        model = BeatsEncoder(**TINY | changes).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
        return model

    return build
