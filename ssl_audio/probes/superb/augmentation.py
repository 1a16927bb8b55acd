"""SpecAugment (arXiv:1904.08779) on an encoder's frames, ahead of SUPERB's recurrent heads.

Definition: s3prl ``downstream/specaug.py``; the numbers are in ``configs/probe/superb.yaml``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_audio.batch import valid_mask


class SpecAugmented(nn.Module):
    """A head whose input is warped and masked in training; draws from torch's CPU generator.

    Args:
        head: from (B, T, D) and (B,).
        warp: the frame that is moved goes at most this far.
        time_masks, channel_masks: how many of each.
        max_frames, max_channels: the widest of each.
    """

    def __init__(
        self,
        head: nn.Module,
        *,
        warp: int,
        time_masks: int,
        max_frames: int,
        channel_masks: int,
        max_channels: int,
    ) -> None:
        super().__init__()
        self.head, self.warp = head, warp
        self.time_masks, self.max_frames = time_masks, max_frames
        self.channel_masks, self.max_channels = channel_masks, max_channels

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What the head makes of it."""
        if self.training:
            frames = self._augmented(frames, lengths)
        return self.head(frames, lengths)

    def _augmented(self, frames: Tensor, lengths: Tensor) -> Tensor:
        _, num_frames, channels = frames.shape
        rows = zip(frames, lengths.tolist(), strict=True)
        warped = torch.stack([time_warped(row, length, self.warp) for row, length in rows])
        sizes = lengths.cpu()
        hidden_time = stretches(sizes, num_frames, self.time_masks, self.max_frames)
        all_channels = torch.full_like(sizes, channels)
        hidden = stretches(all_channels, channels, self.channel_masks, self.max_channels)
        hidden = hidden_time[..., None] | hidden[:, None]
        return warped.masked_fill(hidden.to(frames.device), 0.0)


def time_warped(frames: Tensor, length: int, window: int) -> Tensor:
    """(T, D) with one of the first ``length`` frames moved by at most ``window``.

    What lies before and behind it is resampled to fill the same duration.
    """
    if window == 0 or length <= 2 * window:
        return frames
    centre = int(torch.randint(window, length - window, ()))
    moved = centre + int(torch.randint(1 - window, window + 1, ()))
    parts = ((frames[:centre], moved), (frames[centre:length], length - moved))
    warped = [
        functional.interpolate(part[None, None], (size, part.shape[1]), mode="bicubic")[0, 0]
        for part, size in parts
    ]
    return torch.cat([*warped, frames[length:]])


def stretches(sizes: Tensor, width: int, count: int, widest: int) -> Tensor:
    """(B, ``width``) bool: ``count`` stretches of each row's first ``sizes`` (B,) positions.

    Their lengths are uniform from 0 to below ``widest``.
    """
    limits = sizes.clamp(max=widest)[:, None]
    lengths = (torch.rand(len(sizes), count) * limits).long()
    starts = (torch.rand(len(sizes), count) * (sizes[:, None] - lengths + 1)).long()
    stops = starts + lengths
    inside = valid_mask(stops.flatten(), width) & ~valid_mask(starts.flatten(), width)
    return inside.view(len(sizes), count, width).any(1)
