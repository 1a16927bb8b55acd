"""Perturbed views of projected frames (SD-HuBERT, arXiv 2310.10803, its data perturbation).

Drawn on the CPU with one generator per clip, a function of (seed, purpose, sample_index).
Axes: B clips, T frames, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssl_audio.rng import sample_generator
from ssl_audio.tasks.masking import covered, span_starts


@dataclass(frozen=True, slots=True)
class Perturbation:
    """What may happen to a clip; exactly one of them does, or nothing.

    Attributes:
        masks: (share of the clips, masked share of the frames, span in frames) of each kind of
            time mask.
        stretch_prob: share of the clips of which one part is slowed down or sped up.
        stretch_split: where a clip is divided in two, as a share of its length.
        stretch_scale: by how much a part's length changes; the other part takes up the rest.

    Raises:
        ValueError: shares that add up to more than 1, or ranges that are none.
    """

    masks: Sequence[tuple[float, float, int]]
    stretch_prob: float
    stretch_split: tuple[float, float]
    stretch_scale: tuple[float, float]

    def __post_init__(self) -> None:
        shares = [self.stretch_prob, *(share for share, *_ in self.masks)]
        if min(shares) < 0 or sum(shares) > 1 + 1e-9:
            raise ValueError(f"perturbation: the shares {shares} are negative or above 1 together")
        low, high = self.stretch_split
        if not 0 < low <= high < 1 or not 0 < self.stretch_scale[0] <= self.stretch_scale[1]:
            raise ValueError(
                f"perturbation: stretch_split={self.stretch_split} lies in 0 .. 1 and "
                f"stretch_scale={self.stretch_scale} above 0, both from low to high"
            )

    def draw(
        self, lengths: Tensor, num_frames: int, sample_index: Tensor, seed: int, purpose: str
    ) -> PerturbedView:
        """One view of each clip of ``lengths`` (B,) frames, padded to ``num_frames``."""
        mask = np.zeros((len(lengths), num_frames), bool)
        source = np.tile(np.arange(num_frames, dtype=np.float32), (len(lengths), 1))
        for row, (size, index) in enumerate(
            zip(lengths.tolist(), sample_index.tolist(), strict=True)
        ):
            rng = sample_generator(seed, purpose, index)
            left = rng.random()
            for share, prob, span in self.masks:
                if 0 <= left < share:
                    mask[row, covered(span_starts(rng, size, prob, span), span, size)] = True
                left -= share
            if 0 <= left < self.stretch_prob and size >= 2:
                source[row, :size] = self._stretched(rng, size)
        return PerturbedView(torch.from_numpy(mask), torch.from_numpy(source))

    def _stretched(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Where each of ``size`` frames comes from, when one part of a clip changes its length."""
        split = int(np.clip(round(size * rng.uniform(*self.stretch_split)), 1, size - 1))
        changes_left = rng.random() < 0.5
        part = split if changes_left else size - split
        low, high = self.stretch_scale
        scaled = round(part * rng.uniform(low, max(low, min(high, size / part))))
        scaled = int(np.clip(scaled, 1, size - 1))
        first = scaled if changes_left else size - scaled
        return np.concatenate([_resized(0, split, first), _resized(split, size, size - first)])


@dataclass(frozen=True, slots=True)
class PerturbedView:
    """``mask`` (B, T) bool, frames to hide; ``source`` (B, T) float32, the frame that each one is
    taken from, between two frames where it has a fraction."""

    mask: Tensor
    source: Tensor

    def __call__(self, frames: Tensor, mask_embedding: Tensor) -> Tensor:
        """(B, T, D) frames, warped in time and then masked with the embedding (D,)."""
        source = self.source.to(frames.device)
        lower = source.floor().long()
        share = (source - lower)[:, :, None].to(frames.dtype)
        upper = (lower + 1).clamp_max(frames.shape[1] - 1)
        before, after = (
            frames.gather(1, index[:, :, None].expand(-1, -1, frames.shape[2]))
            for index in (lower, upper)
        )
        warped = before + share * (after - before)
        mask = self.mask.to(frames.device)[:, :, None]
        return torch.where(mask, mask_embedding.to(frames.dtype), warped)


def _resized(start: int, stop: int, count: int) -> np.ndarray:
    """``count`` places evenly over the frames start .. stop - 1, pixel centres as in images."""
    places = (np.arange(count) + 0.5) * (stop - start) / count - 0.5
    return (start + places.clip(0, stop - start - 1)).astype(np.float32)
