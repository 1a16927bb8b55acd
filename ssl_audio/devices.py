"""Where to compute when the user does not say."""

from __future__ import annotations

import os

import torch


def default_device(device: str | None = None) -> str:
    """``device``, or this rank's GPU if there is one, or the CPU."""
    local_rank = os.environ.get("LOCAL_RANK", "0")
    return device or (f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu")
