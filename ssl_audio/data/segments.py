"""Clips cut into the stretches that training draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from ssl_audio.batch import AUDIO, SPEECH
from ssl_audio.data.clips import Clip

DOMAINS = {"speech": SPEECH, "audio": AUDIO}
CROPS = ("segments", "random")


@dataclass(frozen=True, slots=True)
class Segments:
    """n stretches of audio; a segment's id is its position here.

    Attributes:
        clip: (n,) int64, index into the source's clips.
        start_sec: (n,) float64, from the start of the clip.
        duration_sec: (n,) float64.
        domain: (n,) int64, ``SPEECH`` or ``AUDIO``.
        num_short_clips: clips that gave no segment because they are shorter than the minimum.
        fingerprint: changes when any segment does.
    """

    clip: np.ndarray
    start_sec: np.ndarray
    duration_sec: np.ndarray
    domain: np.ndarray
    num_short_clips: int
    fingerprint: str

    def __len__(self) -> int:
        return len(self.clip)

    def name(self, segment: int, clips: Sequence[Clip]) -> str:
        """The clip's id, with the start in seconds when the segment is not the clip's first."""
        clip, start_sec = clips[int(self.clip[segment])], float(self.start_sec[segment])
        return f"{clip.id}@{start_sec:.2f}s" if start_sec else clip.id


def cut_segments(
    clips: Sequence[Clip], *, min_sec: float, max_sec: float | Mapping[str, float]
) -> Segments:
    """Consecutive segments of ``max_sec``; a clip's remainder counts when it lasts ``min_sec``.

    Args:
        clips: at least one.
        min_sec: shortest segment, seconds; clips below it are dropped and counted.
        max_sec: longest segment, seconds, one number or one for each domain name.

    Raises:
        ValueError: limits that contradict each other, or no clip long enough.
    """
    limits = dict.fromkeys(DOMAINS, max_sec) if isinstance(max_sec, int | float) else dict(max_sec)
    if set(limits) != set(DOMAINS) or not all(0 < min_sec <= sec for sec in limits.values()):
        raise ValueError(
            f"data.min_sec={min_sec} and data.max_sec={max_sec}: max_sec is one number or one each "
            "for speech and audio, and 0 < min_sec <= max_sec"
        )
    domain = np.array([DOMAINS[clip.domain] for clip in clips], dtype=np.int64)
    duration = np.array([clip.duration_sec for clip in clips], dtype=np.float64)
    longest = np.where(domain == SPEECH, limits["speech"], limits["audio"])
    whole = np.floor(duration / longest).astype(np.int64)
    pieces = whole + (duration - whole * longest >= min_sec)
    if not pieces.any():
        raise ValueError(
            f"no clip lasts data.min_sec={min_sec} s; the longest of {len(clips)} lasts "
            f"{duration.max(initial=0.0):.2f} s: lower data.min_sec or give longer audio"
        )
    clip = np.repeat(np.arange(len(clips)), pieces)
    position = np.arange(len(clip)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = position * longest[clip]
    length = np.minimum(longest[clip], duration[clip] - start)
    return Segments(
        clip, start, length, domain[clip], int((pieces == 0).sum()), _fingerprint(clips, length)
    )


def _fingerprint(clips: Sequence[Clip], durations_sec: np.ndarray) -> str:
    digest = blake2b(digest_size=8)
    for clip in clips:
        row = (clip.id, clip.num_samples, clip.sample_rate_hz, clip.start_sec, clip.domain)
        digest.update(repr(row).encode())
    digest.update(np.round(durations_sec * 1000).astype(np.int64).tobytes())
    return digest.hexdigest()
