"""SpecAugment (arXiv 1904.08779) on the front end's features, as BEATs is fine-tuned with it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssl_audio.rng import sample_generator


def spec_augment(
    features: Tensor,
    lengths: Tensor,
    sample_index: Tensor,
    seed: int,
    *,
    time_masks: int,
    max_time_share: float,
    channel_masks: int,
    max_channels: int,
) -> Tensor:
    """Copy of ``features`` (B, T, M) with stretches of time and of channels set to 0.0.

    Zero is the mean of normalised features. The widths are uniform from 0 to the maximum; what a
    clip loses is a function of the seed and ``sample_index``.

    Args:
        features: of the front end.
        lengths: (B,) valid frames, on the CPU.
        sample_index: (B,) from the batch.
        seed: the run's seed.
        time_masks, channel_masks: how many of each.
        max_time_share: widest time mask, as a share of the clip, in [0, 1].
        max_channels: widest channel mask.

    Raises:
        ValueError: a share outside [0, 1], or a negative number.
    """
    if not 0.0 <= max_time_share <= 1.0 or min(time_masks, channel_masks, max_channels) < 0:
        raise ValueError(
            f"task.spec_augment: max_time_share={max_time_share} is to lie in [0, 1], the other "
            f"numbers ({time_masks}, {channel_masks}, {max_channels}) at 0 or above"
        )
    _, num_frames, num_channels = features.shape
    hidden_time = np.zeros((len(features), num_frames), dtype=bool)
    hidden_channels = np.zeros((len(features), num_channels), dtype=bool)
    for row, (size, index) in enumerate(zip(lengths.tolist(), sample_index.tolist(), strict=True)):
        rng = sample_generator(seed, "spec_augment", index)
        for _ in range(time_masks):
            _hide(hidden_time[row], rng, size, int(max_time_share * size))
        for _ in range(channel_masks):
            _hide(hidden_channels[row], rng, num_channels, min(max_channels, num_channels))
    hidden = torch.from_numpy(hidden_time)[..., None] | torch.from_numpy(hidden_channels)[:, None]
    return features.masked_fill(hidden.to(features.device, non_blocking=True), 0.0)


def _hide(row: np.ndarray, rng: np.random.Generator, size: int, widest: int) -> None:
    width = int(rng.integers(widest + 1))
    start = int(rng.integers(size - width + 1))
    row[start : start + width] = True
