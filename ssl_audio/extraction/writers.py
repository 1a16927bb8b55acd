"""Features on disk: one file per clip, or a folder of Parquet parts."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from ssl_audio.files import replacing

Layers = Mapping[str, np.ndarray]  # name to (T, D), (D,) or (2 D,)

FORMATS = ("safetensors", "npy", "parquet")
CLIPS_PER_BLOCK = 512
PART_SEC = 900.0  # of audio in a Parquet part of frames
MAX_NAME = 200  # characters; file systems allow 255 bytes


class Writer(ABC):
    """Where features go. Every file appears whole or not at all.

    Args:
        directory: to write to.
        ids: of all clips, in the input's order.
        durations_sec: of all clips.
        metadata: of the run, stored beside the values where the format can.
    """

    def __init__(
        self,
        directory: Path,
        ids: Sequence[str],
        durations_sec: Sequence[float],
        metadata: Mapping[str, str],
    ) -> None:
        self.directory, self.ids = directory, ids
        self.durations_sec, self.metadata = durations_sec, metadata

    @abstractmethod
    def blocks(self) -> Iterator[list[int]]:
        """The clips that are not there yet, in groups that are extracted together."""

    @abstractmethod
    def add(self, index: int, layers: Layers, num_frames: int) -> None:
        """Takes the features of clip ``index``."""

    @abstractmethod
    def finish_block(self) -> None:
        """Called when the last clip of a block was added."""


class ClipWriter(Writer):
    """One file per clip, named after its id."""

    suffix: str

    def blocks(self) -> Iterator[list[int]]:
        missing = [i for i in range(len(self.ids)) if not self.path(i).is_file()]
        for first in range(0, len(missing), CLIPS_PER_BLOCK):
            yield missing[first : first + CLIPS_PER_BLOCK]

    def finish_block(self) -> None:
        """Nothing: every clip was written when it was added."""

    def path(self, index: int) -> Path:
        return self.directory / f"{file_name(self.ids[index])}{self.suffix}"


class SafetensorsWriter(ClipWriter):
    """Tensors by layer name."""

    suffix = ".safetensors"

    def add(self, index: int, layers: Layers, num_frames: int) -> None:
        from safetensors.numpy import save_file

        metadata = {**self.metadata, "id": self.ids[index], "num_frames": str(num_frames)}
        arrays = {name: np.ascontiguousarray(values) for name, values in layers.items()}
        with replacing(self.path(index)) as temporary:
            save_file(arrays, temporary, metadata)


class NpyWriter(ClipWriter):
    """The array of one layer; of several layers (L, ...), in order."""

    suffix = ".npy"

    def add(self, index: int, layers: Layers, num_frames: int) -> None:
        values = list(layers.values())
        if len({array.shape for array in values}) > 1:
            widths = ", ".join(f"{name} {array.shape[-1]}" for name, array in layers.items())
            raise ValueError(
                f"layers of unequal width ({widths}) do not fit one npy array; "
                "use --format safetensors or name one layer"
            )
        with replacing(self.path(index)) as temporary, temporary.open("wb") as file:
            np.save(file, values[0] if len(values) == 1 else np.stack(values), allow_pickle=False)


class ParquetWriter(Writer):
    """``part-00000.parquet`` …: columns ``id``, ``duration_sec``, ``num_frames`` and one per layer.

    ``datasets.load_dataset("parquet", data_files="DIRECTORY/*.parquet")`` reads them.
    """

    def __init__(
        self,
        directory: Path,
        ids: Sequence[str],
        durations_sec: Sequence[float],
        metadata: Mapping[str, str],
    ) -> None:
        super().__init__(directory, ids, durations_sec, metadata)
        self._part = 0
        self._rows: dict[int, tuple[Layers, int]] = {}

    def blocks(self) -> Iterator[list[int]]:
        for part, block in enumerate(self._parts()):
            self._part = part
            if not self._path().is_file():
                yield block

    def add(self, index: int, layers: Layers, num_frames: int) -> None:
        self._rows[index] = layers, num_frames

    def finish_block(self) -> None:
        import pyarrow
        from pyarrow import parquet

        rows, self._rows = sorted(self._rows.items()), {}
        if not rows:
            return
        columns = {
            "id": pyarrow.array([self.ids[i] for i, _ in rows], pyarrow.string()),
            "duration_sec": pyarrow.array([self.durations_sec[i] for i, _ in rows]),
            "num_frames": pyarrow.array([n for _, (_, n) in rows], pyarrow.int64()),
        }
        for name in rows[0][1][0]:
            columns[name] = _column([layers[name] for _, (layers, _) in rows])
        with replacing(self._path()) as temporary:
            parquet.write_table(pyarrow.table(columns), temporary)

    def _path(self) -> Path:
        return self.directory / f"part-{self._part:05d}.parquet"

    def _parts(self) -> Iterator[list[int]]:
        block: list[int] = []
        seconds = 0.0
        longest = PART_SEC if self.metadata["pooling"] == "none" else float("inf")
        for index, duration in enumerate(self.durations_sec):
            if block and (len(block) == CLIPS_PER_BLOCK or seconds + duration > longest):
                yield block
                block, seconds = [], 0.0
            block.append(index)
            seconds += duration
        yield block


def writer_of(file_format: str) -> type[Writer]:
    """ValueError for a format that is not in ``FORMATS``."""
    writers = dict(zip(FORMATS, (SafetensorsWriter, NpyWriter, ParquetWriter), strict=True))
    if file_format not in writers:
        raise ValueError(f"unknown format {file_format!r}; use {', '.join(FORMATS)}")
    return writers[file_format]


def file_name(clip_id: str) -> str:
    """A relative path below the output folder, different for different ids.

    An id that is a clean relative path stays as it is, any other is percent-encoded, and what is
    too long for a file system ends in a hash.
    """
    parts = clip_id.split("/")
    clean = all(part and not part.startswith(".") for part in parts) and clip_id.isprintable()
    name = clip_id if clean and not set(clip_id) & set('\\:*?"<>|%') else quote(clip_id, safe="")
    name = "%2E" + name[1:] if name.startswith(".") else name
    if max(len(part.encode()) for part in name.split("/")) <= MAX_NAME:
        return name
    digest = hashlib.sha256(clip_id.encode()).hexdigest()[:32]
    return f"{quote(clip_id, safe='')[:100]}-{digest}"


def _column(values: Sequence[np.ndarray]) -> object:
    """(D,) rows as fixed-size lists, (T, D) rows as lists of those."""
    import pyarrow

    flat = np.concatenate([array.reshape(-1) for array in values])
    vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat), values[0].shape[-1])
    if values[0].ndim == 1:
        return vectors
    offsets = np.cumsum([0, *(len(array) for array in values)])
    return pyarrow.ListArray.from_arrays(pyarrow.array(offsets, pyarrow.int32()), vectors)
