"""Samples of webdataset tars: a label in JSON, and audio that is read when it is needed."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_audio import audio

AUDIO_ENDINGS = frozenset({"flac", "mp3", "sox", "wav", "m4a", "ogg", "opus", "wma"})


@dataclass(frozen=True, slots=True)
class Sample:
    """Audio in a tar: where its bytes lie, and what the JSON beside it says."""

    id: str
    tar: Path
    offset: int
    size: int
    label: Any

    def bytes(self) -> bytes:
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    @property
    def duration_sec(self) -> float:
        """From the header. Raises ``AudioError``."""
        return audio.info(self.bytes(), name=self.id).duration_sec

    def read(self, start_sec: float, duration_sec: float | None) -> Any:
        """(S,) float32 at 16 kHz. Raises ``AudioError``."""
        return audio.read(self.bytes(), start_sec, duration_sec, name=self.id)


def read_tars(paths: Sequence[Path]) -> list[Sample]:
    """Every sample that has audio and a label, in order.

    Members of one sample follow each other and share their name up to its first dot.

    Raises:
        ValueError: a tar that is cut off or is none, JSON that cannot be read, no sample at all.
    """
    samples: list[Sample] = []
    for path in paths:
        try:
            with tarfile.open(path, "r:") as tar:
                samples += _samples(path, tar)
        except (tarfile.TarError, EOFError) as error:
            raise ValueError(f"{path}: not a complete tar ({error}); download it again") from error
    if not samples:
        raise ValueError(f"{paths[0]}: no sample with audio and JSON; download the task again")
    return samples


def _samples(path: Path, tar: tarfile.TarFile) -> list[Sample]:
    samples: list[Sample] = []
    key, sound, text = "", None, None
    for member in tar:
        if not member.isfile():
            continue
        folder, _, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        if f"{folder}/{stem}" != key:
            key, sound, text = f"{folder}/{stem}", None, None
        if ending.lower() in AUDIO_ENDINGS:
            sound = member
        elif ending == "json":
            text = _json(path, tar, member)
        if sound is not None and text is not None:
            name = f"{path.name}:{key.lstrip('/')}"
            samples.append(Sample(name, path, sound.offset_data, sound.size, text))
            sound = text = None
    return samples


def _json(path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    file = tar.extractfile(member)
    assert file is not None
    try:
        return json.loads(file.read())
    except ValueError as error:
        raise ValueError(f"{path}: {member.name} is not JSON; download the tar again") from error
