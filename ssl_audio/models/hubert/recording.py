"""Norms over a whole recording, for windows of one that is too long for a forward pass.

The waveform is brought to zero mean and unit variance, the first convolution to that in every
channel. Over a window alone, the noise of a long pause would become as loud as speech. Both follow
from the mean and the covariance of the samples under the first kernel, so one look at the samples
is enough. Axes: S samples, K samples of the first kernel, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class RecordingNorms:
    """``mean`` and ``scale`` () of the samples; ``channel_mean`` and ``channel_variance`` (C,) of
    the first convolution over scaled samples. All float32."""

    mean: Tensor
    scale: Tensor
    channel_mean: Tensor
    channel_variance: Tensor

    def scaled(self, waveforms: Tensor, valid: Tensor) -> Tensor:
        """(B, S) samples where ``valid`` (B, S) is True, else zeros."""
        return (waveforms - self.mean) * self.scale * valid

    def normalized(self, norm: nn.GroupNorm, x: Tensor) -> Tensor:
        """The group norm of (B, C, T), with these statistics in place of those of ``x``."""
        scale = norm.weight * torch.rsqrt(self.channel_variance + norm.eps)
        offset = norm.bias - scale * self.channel_mean
        return torch.addcmul(offset[:, None], x.float(), scale[:, None]).to(x.dtype)


def recording_norms(
    pieces: Iterable[Tensor], conv: nn.Conv1d, eps: float | None
) -> RecordingNorms | None:
    """The norms of a recording that comes in pieces (S,), one after the other.

    Args:
        conv: the first convolution, of one channel, without bias.
        eps: added to the variance of the samples; None leaves them as they are.

    Returns:
        On the convolution's device; None where the recording is shorter than the kernel.
    """
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    count = num_samples = 0
    sums, products = torch.zeros(kernel).double(), torch.zeros(kernel, kernel).double()
    moments = torch.zeros(2).double()
    rest = torch.zeros(0).double()  # samples that the next piece's first frame begins with
    for piece in pieces:
        num_samples += len(piece)
        moments += torch.stack([piece.double().sum(), piece.double().square().sum()])
        rest = torch.cat([rest, piece.double()])
        if len(rest) >= kernel:
            frames = rest.unfold(0, kernel, stride)
            count += len(frames)
            sums += frames.sum(0)
            products += frames.T @ frames
            rest = rest[stride * len(frames) :]
    if not count:
        return None
    mean, scale = torch.zeros(()).double(), torch.ones(()).double()
    if eps is not None:
        mean = moments[0] / num_samples
        scale = torch.rsqrt((moments[1] / num_samples - mean.square()).clamp_min(0) + eps)
    center = sums / count
    covariance = products / count - torch.outer(center, center)
    weight = conv.weight.detach()[:, 0].double().cpu() * scale
    channel_mean = weight @ (center - mean)
    channel_variance = ((weight @ covariance) * weight).sum(1).clamp_min(0)
    device = conv.weight.device
    return RecordingNorms(
        *(x.float().to(device) for x in (mean, scale, channel_mean, channel_variance))
    )
