"""Where a patch stands: bucketed relative bias and a convolution over neighbours.

Axes: B clips, P patches in the sequence, C channels, H heads, N buckets.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_audio.batch import valid_mask


def relative_buckets(offsets: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Bucket of each offset key - query, int64, any shape.

    Half of the buckets serve keys after the query. Of a half, the first half holds one distance
    each, the rest grow with the logarithm up to ``max_distance`` (T5, ``num_buckets`` >= 4).
    """
    half = num_buckets // 2
    exact = half // 2
    distance = offsets.abs()
    growth = (distance.clamp_min(exact).float() / exact).log() / math.log(max_distance / exact)
    far = exact + (growth * (half - exact)).long()
    bucket = torch.where(distance < exact, distance, far.clamp_max(half - 1))
    return bucket + half * (offsets > 0)


class RelativeBias(nn.Module):
    """Bias of attention scores by head and offset; one table for all layers of a stack."""

    def __init__(self, num_buckets: int, max_distance: int, num_heads: int) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.weight = nn.Parameter(torch.empty(num_buckets, num_heads))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, num_patches: int, positions: Tensor | None = None) -> Tensor:
        """Bias (1 or B, H, P, P) of query i (dim 2) and key j (dim 3).

        Args:
            num_patches: P.
            positions: (B, P) int64 indices of the patches in their clips; None for 0 .. P - 1.
        """
        if positions is not None:
            by_pair = self._of(positions[:, None, :] - positions[:, :, None])
            return by_pair.movedim(-1, 1).contiguous()
        reach = torch.arange(1 - num_patches, num_patches, device=self.weight.device)
        # Contiguous: with neighbouring heads side by side every layer's scores wait for memory.
        by_offset = self._of(reach).T.contiguous()  # (H, 2P - 1)
        # Window s of size P starts at offset s - (P - 1): that is row i = P - 1 - s.
        return by_offset.unfold(1, num_patches, 1).flip(1)[None]

    def _of(self, offsets: Tensor) -> Tensor:
        buckets = relative_buckets(offsets, len(self.weight), self.max_distance)
        return functional.embedding(buckets, self.weight)


class ConvolutionalPositions(nn.Module):
    """Grouped convolution along the sequence, weight-normalised per tap, then GELU.

    Args:
        dim: C.
        kernel: taps; an even number looks one patch further back than ahead.
        groups: a divisor of C.
    """

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight_g = nn.Parameter(torch.empty(1, 1, kernel))
        self.weight_v = nn.Parameter(torch.empty(dim, dim // groups, kernel))
        self.bias = nn.Parameter(torch.zeros(dim))
        nn.init.normal_(self.weight_v, std=math.sqrt(4.0 / (kernel * dim)))
        with torch.no_grad():
            self.weight_g.copy_(self._tap_norms())

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, C) to the same shape; whatever stands for padding in ``x`` must be zero."""
        weight = self.weight_v * (self.weight_g / self._tap_norms())
        with torch.autocast(x.device.type, enabled=False):
            y = correlate(x.float(), weight.float(), self.groups)
        return functional.gelu(y.to(x.dtype) + self.bias)

    def at(self, x: Tensor, positions: Tensor, num_positions: int) -> Tensor:
        """The same for patches (B, P, C) that stand at ``positions`` (B, P) of ``num_positions``.

        Absent patches count as zeros, as padding does.
        """
        index = positions[:, :, None].expand_as(x)
        grid = x.new_zeros(x.shape[0], num_positions, x.shape[2]).scatter_add(1, index, x)
        y = self(grid)
        return y.gather(1, index)

    def _tap_norms(self) -> Tensor:
        return self.weight_v.square().sum((0, 1), keepdim=True).sqrt()


def correlate(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """y[t] = sum over k of weight[k] x[t + k - K // 2], with zeros around ``x``, block by block.

    Long kernels cost a fraction of a direct convolution: 128 taps on a CPU a fourth for 2 clips of
    10 s, an eighth for 8 clips, backward included (overlap-save).

    Args:
        x: (B, P, C) float32.
        weight: (C, C / groups, K) float32.
    """
    num_clips, num_patches, dim = x.shape
    taps, width = weight.shape[2], dim // groups
    size = 1 << (2 * taps - 1).bit_length()  # of a block, a power of two
    step = size - taps + 1
    blocks = -(-num_patches // step)
    before = taps // 2
    x = functional.pad(x, (0, 0, before, blocks * step + taps - 1 - before - num_patches))
    spectra = torch.fft.rfft(x.unfold(1, size, step)).unflatten(2, (groups, width))
    kernels = torch.fft.rfft(weight, n=size).conj().unflatten(0, (groups, width))
    # A product of matrices for every group and frequency: (B blocks, in) times (in, out).
    products = spectra.flatten(0, 1).permute(1, 3, 0, 2) @ kernels.permute(0, 3, 2, 1)
    y = torch.fft.irfft(products.permute(2, 0, 3, 1), n=size)[..., :step]
    return y.flatten(1, 2).unflatten(0, (num_clips, blocks)).mT.flatten(1, 2)[:, :num_patches]


def without_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    """(B, P, C) with zeros after each clip's end."""
    if lengths is None:
        return x
    return x.masked_fill(~valid_mask(lengths, x.shape[1])[:, :, None], 0.0)
