"""Which clips are held out to watch the loss."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from ssl_audio.data.clips import Clip

TRAIN, VALID, TEST = "train", "valid", "test"
SPLIT_OF_TAG = {"train": TRAIN, "valid": VALID, "validation": VALID, "dev": VALID, "test": TEST}


def split_clips(
    clips: Sequence[Clip], *, valid_fraction: float, valid_max_sec: float
) -> np.ndarray:
    """(n,) split names: a clip's own ``split`` tag, else by a hash of its id.

    A hash below ``valid_fraction`` is held out, so that adding clips moves none from one side to
    the other; of many, those with the smallest hash until ``valid_max_sec``. At least one clip is
    held out when there are two.

    Args:
        clips: of the source.
        valid_fraction: in [0, 1); 0 holds out nothing that is not tagged.
        valid_max_sec: most seconds to hold out.
    """
    split = np.array([SPLIT_OF_TAG.get(clip.tags.get("split", ""), "") for clip in clips], "<U5")
    free = np.flatnonzero(split == "")
    split[free] = TRAIN
    tagged_valid = bool((split == VALID).any())
    if valid_fraction <= 0 or len(free) < 2 or tagged_valid:
        return split
    hashes = np.array([_hash(clips[int(index)].id) for index in free])
    order = np.argsort(hashes)
    candidates = free[order[: max(1, int((hashes < valid_fraction).sum()))]]
    seconds = np.cumsum([clips[int(index)].duration_sec for index in candidates])
    split[candidates[: max(1, int((seconds <= valid_max_sec).sum()))]] = VALID
    return split


def _hash(clip_id: str) -> float:
    """In [0, 1)."""
    return int.from_bytes(blake2b(clip_id.encode(), digest_size=7).digest(), "big") / 2**56
