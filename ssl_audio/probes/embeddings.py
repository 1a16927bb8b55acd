"""Vectors or frames of labelled recordings, in shards that a killed run finds again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ssl_audio import audio
from ssl_audio.files import replacing
from ssl_audio.probes.progress import with_bar
from ssl_audio.probes.recordings import Recording
from ssl_audio.probes.sources import FrameSource
from ssl_audio.probes.stream import EXTRACTOR, Failure, FeaturePooling, iter_features

SHARD = 2000  # items in a file of the cache

Item = TypeVar("Item")
Found = tuple[dict[str, Tensor], list[str]]


@dataclass(frozen=True, slots=True)
class Extraction:
    """How recordings become vectors.

    Args:
        source: an encoder's layers or a baseline; several layers are joined along D.
        batch_sec: padded seconds in a batch.
        cache_dir: where the vectors are kept between runs; None keeps none.
        progress: title of a bar; empty shows none.
    """

    source: FrameSource
    batch_sec: float = 60.0
    cache_dir: Path | None = None
    progress: str = ""

    def run(
        self,
        items: Sequence[Item],
        opened: Callable[[Item], Sequence[Recording]],
        identity: Callable[[Item], Hashable],
        pooling: FeaturePooling,
    ) -> Found:
        """(D,) vectors or (T, D) frames by recording id, and one line for each that was left out.

        Args:
            items: what the recordings come from.
            opened: the recordings of an item; called where the cache does not have them. An
                ``AudioError`` leaves the item out.
            identity: tells items with other audio apart.
            pooling: "none" for frames.
        """
        stored: dict[str, Tensor] = {}
        failures: list[str] = []
        for start in range(0, len(items), SHARD):
            shard = items[start : start + SHARD]
            path = self._path([identity(item) for item in shard], pooling)
            found = _read(path)
            if found is None:
                found = self._computed(shard, opened, pooling)
                _write(path, found)
            stored |= found[0]
            failures += found[1]
        return stored, failures

    def timestamps_ms(self, num_frames: int) -> np.ndarray:
        """(T,) centres of the frames of a recording, from the source's own front end."""
        centres = (np.arange(num_frames) + 0.5) / self.source.frame_rate
        return 1000.0 * (self.source.frame_offset_sec + centres)

    def _computed(
        self,
        items: Sequence[Item],
        opened: Callable[[Item], Sequence[Recording]],
        pooling: FeaturePooling,
    ) -> Found:
        recordings: list[Recording] = []
        failures: list[str] = []
        for item in items:
            try:
                recordings += opened(item)
            except audio.AudioError as error:
                failures.append(str(error))
        stored = {}
        features = iter_features(self.source, recordings, pooling=pooling, batch_sec=self.batch_sec)
        for found in with_bar(features, self.progress, len(recordings)):
            if isinstance(found, Failure):
                failures.append(found.reason)
            else:
                stored[found.id] = torch.cat(list(found.layers.values()), dim=-1)
        return stored, failures

    def _path(self, identities: Sequence[Hashable], pooling: FeaturePooling) -> Path | None:
        if self.cache_dir is None:
            return None
        parts = ("embeddings", EXTRACTOR, self.source.key, pooling, "soxr HQ", identities)
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
        return self.cache_dir / f"{digest}.safetensors"


def _read(path: Path | None) -> Found | None:
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            failures = json.loads(file.metadata()["failures"])
            return {name: file.get_tensor(name) for name in file.keys()}, failures  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, KeyError):
        path.unlink()  # cut off by a full disk, say: made anew
        return None


def _write(path: Path | None, found: Found) -> None:
    if path is None or not found[0]:
        return
    with replacing(path) as temporary:
        save_file(found[0], temporary, {"failures": json.dumps(found[1])})
