"""A folder of audio files as a data source."""

from __future__ import annotations

import os
from dataclasses import replace

from ssl_audio.data.clips import Clip
from ssl_audio.data.manifest import scan_folder
from ssl_audio.data.source import FileSource, check_usable

Folder = str | os.PathLike[str]


class FolderSource(FileSource):
    """All audio files below ``root``, or below ``speech_root`` and ``audio_root``.

    Args:
        root: mixed folder; files below a folder called ``speech`` are speech, the rest audio,
            unless ``domain`` ("speech" or "audio") says what all are.
        speech_root: folder with speech only.
        audio_root: folder with general audio only.
        domain: of everything in ``root``.
        cache_dir: keeps the scan, so that the next run opens only new files.
        max_bad_fraction: refuse the folder when more of its files are unusable.

    Raises:
        ValueError: a folder that is missing or without audio, or too many bad files.
    """

    def __init__(
        self,
        root: Folder | None = None,
        *,
        speech_root: Folder | None = None,
        audio_root: Folder | None = None,
        domain: str | None = None,
        cache_dir: Folder | None = None,
        max_bad_fraction: float = 0.5,
    ) -> None:
        roots = (
            ("", root, domain),
            ("speech/", speech_root, "speech"),
            ("audio/", audio_root, "audio"),
        )
        if all(folder is None for _, folder, _ in roots):
            raise ValueError("no folder given; set data.root, data.speech_root or data.audio_root")
        if domain not in (None, "speech", "audio"):
            raise ValueError(f"data.source.domain={domain!r}; use speech, audio or null")
        clips: list[Clip] = []
        skipped: list[tuple[str, str]] = []
        for prefix, folder, folder_domain in roots:
            if folder is None:
                continue
            report = scan_folder(folder, domain=folder_domain, cache_dir=cache_dir)
            check_usable(str(folder), report.clips, report.skipped, max_bad_fraction)
            clips += [replace(clip, id=prefix + clip.id) for clip in report.clips]
            skipped += report.skipped
        super().__init__(clips, skipped)
