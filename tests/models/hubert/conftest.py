"""A tiny HuBERT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ssl_audio.models import HubertEncoder

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 1,
    "intermediate_size": 24,
    "conv_dim": [12] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}


@pytest.fixture
def tiny(randomized: Callable) -> Callable[..., HubertEncoder]:
    """``tiny(**changes)``: random weights far from their initial values, eval mode."""

    def build(**changes: Any) -> HubertEncoder:
        torch.manual_seed(0)
        return randomized(HubertEncoder(**SIZES | changes)).eval()

    return build
