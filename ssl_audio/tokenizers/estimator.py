"""The half of BEATs' tokenizer training that is thrown away afterwards: codes to teacher output.

BEATs, arXiv 2212.09058, section 3.2.2, eq. 3. Axes: B clips, P patches, D codebook channels,
C channels of the teacher.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_audio.batch import valid_mask
from ssl_audio.models.beats import Transformer, TransformerConfig
from ssl_audio.tokenizers.distilled import DistilledTokenizer


class Estimator(nn.Module):
    """Predicts the teacher's output from the quantized patches.

    Args:
        codebook_dim: D.
        config: of the layers; DeepNorm takes its factors from their number.
        target_dim: C. A linear layer is added where it is not the layers' width, which OpenBEATs
            asks it to be.
    """

    def __init__(self, codebook_dim: int, config: TransformerConfig, target_dim: int) -> None:
        super().__init__()
        self.connector = nn.Linear(codebook_dim, config.dim)
        self.transformer = Transformer(config)
        self.norm = nn.LayerNorm(config.dim)
        same = target_dim == config.dim
        self.project = nn.Identity() if same else nn.Linear(config.dim, target_dim)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Quantized patches (B, P, D) and valid patches (B,), all when None, to (B, P, C)."""
        return self.project(self.norm(self.transformer(self.connector(x), lengths)[-1]))


class Distillation(NamedTuple):
    """Losses of each patch, to be summed and divided by the valid patches of the whole step.

    Attributes:
        similarity: (B, P) float32, 1 - cosine between prediction and teacher, 0 in padding.
        commitment: (B, P) float32, see :class:`Quantized`; its weight is 1 in the paper and 10 in
            OpenBEATs, which averages over padding too.
        codes: (B, P) int64, ``IGNORE_CODE`` in padding.
        lengths: (B,) valid patches.
    """

    similarity: Tensor
    commitment: Tensor
    codes: Tensor
    lengths: Tensor


def distill(
    tokenizer: DistilledTokenizer,
    estimator: Estimator,
    waveforms: Tensor,
    lengths: Tensor | None,
    targets: Tensor,
) -> Distillation:
    """One forward pass of tokenizer and estimator against a frozen teacher.

    In training mode it collects what ``tokenizer.codebook.step`` needs.

    Args:
        waveforms, lengths: as in ``Tokenizer.encode``.
        targets: (B, P, C) the teacher's output on the same waveforms, on the same clock.

    Raises:
        ValueError: the targets have another shape than the estimator's output.
    """
    quantized, patch_lengths = tokenizer(waveforms, lengths)
    predicted = estimator(quantized.vectors, patch_lengths)
    if predicted.shape != targets.shape:
        raise ValueError(
            f"the teacher gives {tuple(targets.shape)}, the estimator {tuple(predicted.shape)}: "
            "the teacher must have the tokenizer's clock, and target_dim must be its width"
        )
    valid = valid_mask(patch_lengths, targets.shape[1])
    similarity = cosine_distance(predicted, targets).masked_fill(~valid, 0.0)
    return Distillation(similarity, quantized.commitment, quantized.codes, patch_lengths)


def cosine_distance(predicted: Tensor, targets: Tensor) -> Tensor:
    """1 - cosine of (..., C) and (..., C), in float32: (...)."""
    with torch.autocast(predicted.device.type, enabled=False):
        return 1 - functional.cosine_similarity(predicted.float(), targets.float(), dim=-1)
