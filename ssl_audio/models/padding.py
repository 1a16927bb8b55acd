"""What keeps a padded batch from changing a clip's frames in encoders of other libraries.

Axes: B clips, S samples, C channels, T frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_audio.batch import valid_mask

ConvLayers = Sequence[tuple[int, int, int]]  # (channels, kernel, stride) of each layer


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm of one channel per group, with statistics over each clip's own frames.

    HuBERT, WavLM and wav2vec 2.0 Base normalise every channel of their first convolution over time.
    Zero padding shifts those statistics, and with them every frame of the clip (differences up to
    1.7 were seen). The owner sets ``lengths`` before each forward.
    """

    lengths: Tensor | None = None  # (B,) valid frames of the input

    @classmethod
    def replacing(cls, norm: nn.GroupNorm) -> MaskedGroupNorm:
        """The same norm, sharing its parameters."""
        assert norm.num_groups == norm.num_channels
        masked = cls(norm.num_groups, norm.num_channels, norm.eps, norm.affine)
        masked.weight, masked.bias = norm.weight, norm.bias
        return masked

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, T) to the same shape; frames after a clip's end are not meaningful."""
        if self.lengths is not None and bool((self.lengths == input.shape[-1]).all()):
            return super().forward(input)
        return norm_over_valid(self, input, self.lengths)


def norm_over_valid(norm: nn.GroupNorm, x: Tensor, lengths: Tensor | None) -> Tensor:
    """A group norm of one channel per group with statistics over each clip's own frames.

    Args:
        x: (B, C, T); frames after a clip's end come out without a meaning.
        lengths: (B,) valid frames, None for all.
    """
    if lengths is None:
        return functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    assert norm.num_groups == norm.num_channels
    valid = valid_mask(lengths, x.shape[-1])[:, None].float()
    count = lengths.clamp_min(1)[:, None, None]
    wide = x.float() * valid
    mean = wide.sum(-1, keepdim=True) / count
    centred = torch.addcmul(wide, mean, valid, value=-1.0)
    variance = torch.linalg.vector_norm(centred, dim=-1, keepdim=True).square() / count
    scale = norm.weight[:, None] * torch.rsqrt(variance + norm.eps)
    return torch.addcmul(norm.bias[:, None], centred, scale).to(x.dtype)


def normalized(waveforms: Tensor, lengths: Tensor, eps: float) -> Tensor:
    """Each clip with zero mean and unit variance over its own samples; zeros after its end."""
    valid = valid_mask(lengths, waveforms.shape[1])
    count = lengths.clamp_min(1)[:, None]
    centred = (waveforms - (waveforms * valid).sum(1, keepdim=True) / count) * valid
    return centred * torch.rsqrt(centred.square().sum(1, keepdim=True) / count + eps)


def conv_frames(num_samples: Any, layers: ConvLayers) -> Any:
    """Frames after a stack of unpadded convolutions; int or int64 Tensor."""
    for _, kernel, stride in layers:
        num_samples = (num_samples - kernel) // stride + 1
    return num_samples.clamp_min(0) if isinstance(num_samples, Tensor) else max(0, num_samples)


def receptive_field(layers: ConvLayers) -> int:
    """Samples that one frame of the stack sees."""
    samples = 1
    for _, kernel, stride in reversed(layers):
        samples = (samples - 1) * stride + kernel
    return samples


def padded_to(waveforms: Tensor, num_samples: int) -> Tensor:
    """(B, S) with zeros appended until S is at least ``num_samples``."""
    return functional.pad(waveforms, (0, max(0, num_samples - waveforms.shape[1])))
