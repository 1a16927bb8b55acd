"""What a data source offers: clips with known durations, and their samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from ssl_audio import audio
from ssl_audio.batch import SAMPLE_RATE_HZ
from ssl_audio.data.clips import Clip

# Folder names and manifest labels, and the domain they stand for.
DOMAIN_OF_LABEL = {
    "speech": "speech",
    **dict.fromkeys(("audio", "sound", "sounds", "music", "noise", "environment"), "audio"),
}


class Source(ABC):
    """Clips of one corpus. Made in the main process; workers get a pickled copy.

    Attributes:
        clips: what there is, in a fixed order, with unique ids.
        skipped: (path or id, reason) of everything that could not be used.
    """

    clips: Sequence[Clip]
    skipped: list[tuple[str, str]]

    @abstractmethod
    def read(
        self, index: int, start_sec: float = 0.0, duration_sec: float | None = None
    ) -> np.ndarray:
        """(S,) float32 mono 16 kHz of clip ``index``, ``start_sec`` after the clip's start.

        Raises:
            AudioError: the audio cannot be used; one line with the file and the mend.
        """


class FileSource(Source):
    """Clips that are files or stretches of files."""

    def __init__(self, clips: Sequence[Clip], skipped: list[tuple[str, str]]) -> None:
        self.clips = clips
        self.skipped = skipped

    def read(
        self, index: int, start_sec: float = 0.0, duration_sec: float | None = None
    ) -> np.ndarray:
        clip = self.clips[index]
        if duration_sec is None:
            duration_sec = clip.duration_sec - start_sec
        return audio.read(clip.path, clip.start_sec + start_sec, duration_sec, SAMPLE_RATE_HZ)


def check_usable(
    name: str, clips: Sequence[Clip], skipped: list[tuple[str, str]], max_bad_fraction: float
) -> None:
    """Refuse a corpus of which too much is broken.

    Raises:
        ValueError: no clip at all, more than ``max_bad_fraction`` of the files bad, or an id twice.
    """
    total = len(clips) + len(skipped)
    first = f"; the first: {skipped[0][1]}" if skipped else ""
    if not clips:
        raise ValueError(f"{name}: none of {total} files can be used{first}")
    if len(skipped) > max_bad_fraction * total:
        raise ValueError(
            f"{name}: {len(skipped)} of {total} files cannot be used, more than "
            f"data.source.max_bad_fraction={max_bad_fraction}{first}"
        )
    seen: set[str] = set()
    for clip in clips:
        if clip.id in seen:
            raise ValueError(f"{name}: the id {clip.id!r} stands twice; make the ids unique")
        seen.add(clip.id)
