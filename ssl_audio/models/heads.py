"""Prediction heads over multi-codebook targets (SPEAR, arXiv 2510.25955).

Axes: B clips, T frames, D channels, N codebooks, K entries per codebook, H hidden channels. Heads
compute in float32 whatever the precision around them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_audio.batch import IGNORE_CODE

# Official name of ``JointCodebookLoss`` in icefall and multi_quantization -> ours.
_CODEBOOK_HEADS_NAMES = {"linear2b_weight": "weight", "linear2_bias": "bias"}


class CodebookHeads(nn.Module):
    """N independent linear classifiers, ``JointCodebookLoss(is_joint=False)`` of the original.

    Args:
        dim: D.
        num_codebooks: N; times r for a student with r teacher frames per output frame.
        codebook_size: K.
    """

    def __init__(self, dim: int, num_codebooks: int, codebook_size: int = 256) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_codebooks, codebook_size, dim))
        self.bias = nn.Parameter(torch.empty(num_codebooks, codebook_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.weight.shape[-1] ** -0.5)
        nn.init.zeros_(self.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """(..., D) to float32 logits (..., N, K)."""
        with torch.autocast(frames.device.type, enabled=False):
            logits = F.linear(
                frames.float(), self.weight.flatten(0, 1).float(), self.bias.flatten().float()
            )
        return logits.unflatten(-1, self.bias.shape)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> Self:
        """From official names; parameters that only the joint form uses are left out.

        Raises:
            ValueError: a needed tensor is missing or the shapes disagree.
        """
        missing = sorted(set(_CODEBOOK_HEADS_NAMES) - set(state_dict))
        if missing:
            raise ValueError(f"codebook head state dict lacks {', '.join(missing)}")
        ours = {name: state_dict[official] for official, name in _CODEBOOK_HEADS_NAMES.items()}
        weight, bias = ours["weight"], ours["bias"]
        if weight.ndim != 3 or bias.shape != weight.shape[:2]:
            raise ValueError(
                f"codebook head weight {tuple(weight.shape)} and bias {tuple(bias.shape)} do not "
                "fit, expected (N, K, D) and (N, K)"
            )
        num_codebooks, codebook_size, dim = weight.shape
        heads = cls(dim, num_codebooks, codebook_size)
        heads.load_state_dict(ours)
        return heads

    def official_state_dict(self) -> dict[str, Tensor]:
        """The parameters under their official names."""
        state = self.state_dict()
        return {official: state[name] for official, name in _CODEBOOK_HEADS_NAMES.items()}


class JointCodebookLoss(nn.Module):
    """Autoregressive codebook prediction (arXiv 2211.00508, ``multi_quantization/prediction.py``).

    Codebook n is predicted from the frame and from the true codes of codebooks 0 .. n - 1, whose
    embeddings are added up before a ReLU. Parameters carry the official names.

    Args:
        dim: D of the predictor frames.
        num_codebooks: N, at least 2.
        hidden_dim: H.
        codebook_size: K.

    Raises:
        ValueError: ``num_codebooks`` < 2.
    """

    def __init__(
        self, dim: int, num_codebooks: int, hidden_dim: int = 512, codebook_size: int = 256
    ) -> None:
        super().__init__()
        if num_codebooks < 2:
            raise ValueError(
                f"JointCodebookLoss needs num_codebooks >= 2, got {num_codebooks}; use "
                "CodebookHeads for a single codebook"
            )
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.codebook_embedding = nn.Embedding((num_codebooks - 1) * codebook_size, hidden_dim)
        self.linear2_weight = nn.Parameter(torch.empty(num_codebooks, codebook_size, hidden_dim))
        self.linear2b_weight = nn.Parameter(torch.empty(num_codebooks, codebook_size, dim))
        self.linear2_bias = nn.Parameter(torch.empty(num_codebooks, codebook_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.linear1.reset_parameters()
        for weight in (self.codebook_embedding.weight, self.linear2_weight, self.linear2b_weight):
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
        nn.init.zeros_(self.linear2_bias)

    def forward(self, frames: Tensor, codes: Tensor) -> Tensor:
        """Cross-entropy in nats (..., N), 0 where ``codes`` (..., N) is ``IGNORE_CODE``."""
        with torch.autocast(frames.device.type, enabled=False):
            logits = self._logits(frames.float(), codes)
        loss = F.cross_entropy(
            logits.flatten(0, -2), codes.flatten(), ignore_index=IGNORE_CODE, reduction="none"
        )
        return loss.view(codes.shape)

    def _logits(self, frames: Tensor, codes: Tensor) -> Tensor:
        num_codebooks, codebook_size, hidden_dim = self.linear2_weight.shape
        offsets = codebook_size * torch.arange(num_codebooks - 1, device=codes.device)
        known = self.codebook_embedding(codes[..., :-1].clamp(min=0) + offsets)  # (..., N - 1, H)
        scale = 0.5 * math.sqrt(hidden_dim / num_codebooks)
        history = F.pad(known.cumsum(-2) * scale, (0, 0, 1, 0))  # (..., N, H)
        hidden = (self.linear1(frames)[..., None, :] + history).relu()
        return (
            torch.einsum("...nh,nkh->...nk", hidden, self.linear2_weight)
            + torch.einsum("...d,nkd->...nk", frames, self.linear2b_weight)
            + self.linear2_bias
        )
