"""Which patches the encoder sees (BEATs, arXiv 2212.09058, section 3.3.2; ESPnet ``encoder.py``).

Axes: B clips, P patches, V visible patches of the clip that keeps most. Drawn on the CPU with one
generator per clip, seeded by (seed, purpose, sample_index): a clip's mask depends on its place in
the data plan and on nothing else in the batch, and no size has to be read back from the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_audio.batch import valid_mask
from ssl_audio.rng import sample_generator


@dataclass(frozen=True, slots=True)
class PatchMask:
    """A draw for one batch.

    Attributes:
        visible: (B, P) bool, patches that the encoder sees.
        positions: (B, V) int64, their indices in ascending order; rows end in zeros.
        num_visible: (B,) int64.
        masked: (M,) int64, indices into the flattened (B * P) of the valid patches that are not
            visible, the ones to predict.
    """

    visible: Tensor
    positions: Tensor
    num_visible: Tensor
    masked: Tensor

    def to(self, device: torch.device) -> PatchMask:
        fields = (self.visible, self.positions, self.num_visible, self.masked)
        return PatchMask(*(x.to(device, non_blocking=True) for x in fields))


def draw_patch_mask(
    lengths: Tensor,
    sample_index: Tensor,
    seed: int,
    *,
    mask_ratio: float,
    purpose: str,
    num_patches: int | None = None,
) -> PatchMask:
    """Mask ``mask_ratio`` of each clip's patches, uniformly at random.

    Args:
        lengths: (B,) int64 on the CPU, valid patches.
        sample_index: (B,) int64, from the batch.
        seed: the run's seed.
        mask_ratio: share of the valid patches that is hidden, in [0, 1).
        purpose: name of the random stream; training and validation need different ones.
        num_patches: P, the longest clip when None.

    Raises:
        ValueError: ``mask_ratio`` outside [0, 1).
    """
    longest = int(lengths.max()) if num_patches is None else num_patches
    noise = torch.zeros(len(lengths), longest)
    for row, size, index in zip(noise, lengths.tolist(), sample_index.tolist(), strict=True):
        rng = sample_generator(seed, purpose, index)
        row[:size] = torch.from_numpy(rng.random(size, dtype="float32"))
    return keep_lowest(noise, lengths, mask_ratio)


def keep_lowest(noise: Tensor, lengths: Tensor, mask_ratio: float) -> PatchMask:
    """Keep the patches with the smallest ``noise`` (B, P): round(length * (1 - ratio)) of a clip.

    Halves round to even, as in ESPnet. A clip with any patch keeps at least one.

    Raises:
        ValueError: ``mask_ratio`` outside [0, 1).
    """
    check_mask_ratio(mask_ratio)
    num_patches = noise.shape[1]
    valid = valid_mask(lengths, num_patches)
    wanted = (lengths * (1.0 - mask_ratio)).round().long()
    num_visible = torch.maximum(wanted, lengths.clamp(max=1))
    order = noise.masked_fill(~valid, torch.inf).argsort(dim=1, stable=True)
    visible = torch.zeros_like(valid).scatter(1, order, valid_mask(num_visible, num_patches))
    widest = max(1, int(num_visible.max()))  # an encoder needs something to look at
    # Stable and descending: the visible patches come first, in their own order.
    positions = visible.int().argsort(dim=1, descending=True, stable=True)[:, :widest]
    positions = positions.masked_fill(~valid_mask(num_visible, widest), 0)
    masked = (valid & ~visible).flatten().nonzero()[:, 0]
    return PatchMask(visible, positions, num_visible, masked)


def check_mask_ratio(mask_ratio: float) -> None:
    """Raises ValueError outside [0, 1)."""
    if not 0.0 <= mask_ratio < 1.0:
        raise ValueError(f"task.mask_ratio={mask_ratio}: choose a share in [0, 1)")


def gather_patches(patches: Tensor, positions: Tensor) -> Tensor:
    """(B, P, C) at ``positions`` (B, V) to (B, V, C)."""
    return patches.gather(1, positions[..., None].expand(-1, -1, patches.shape[2]))
