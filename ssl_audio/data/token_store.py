"""Teacher tokens on disk: safetensors shards of packed codes with offsets, and a JSON header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ssl_audio.files import replacing

HEADER = "header.json"


@dataclass(frozen=True, slots=True)
class TokenHeader:
    """What a store holds.

    Attributes:
        teacher_hash: of the tokenizer with its frozen teacher (``hub.content_hash``).
        frame_rate: code frames per second, Hz.
        num_codebooks: N.
        codebook_size: K.
        data: fingerprint of the segments (``Segments.fingerprint``).
        domains: domain names whose segments have tokens.
        shard_size: segments per shard.
        num_segments: segments with tokens, in all shards.
    """

    teacher_hash: str
    frame_rate: float
    num_codebooks: int
    codebook_size: int
    data: str
    domains: tuple[str, ...]
    shard_size: int
    num_segments: int

    @property
    def num_shards(self) -> int:
        return -(-self.num_segments // self.shard_size)

    @property
    def dtype(self) -> type[np.unsignedinteger[Any]]:
        return np.uint8 if self.codebook_size <= 256 else np.uint16


class TokenStoreWriter:
    """Writes shards in any order, from any number of processes; shards that exist are kept.

    Raises:
        ValueError: ``directory`` holds tokens of something else; the difference is named.
    """

    def __init__(self, directory: str | os.PathLike[str], header: TokenHeader) -> None:
        self.directory = Path(directory)
        self.header = header
        path = self.directory / HEADER
        if path.is_file():
            check_header(path, _read_header(path), asdict(header))
        else:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(asdict(header), indent=2) + "\n")

    def missing_shards(self) -> list[int]:
        """Shards that are still to be written."""
        shards = range(self.header.num_shards)
        return [shard for shard in shards if not _shard_path(self.directory, shard).is_file()]

    def write(self, shard: int, segments: Sequence[int], codes: Sequence[np.ndarray]) -> None:
        """Write one shard under a temporary name, then rename it.

        Args:
            shard: number of the shard.
            segments: segment ids.
            codes: (T, N) integers of each segment; T may be 0.

        Raises:
            ValueError: the disk is full or not writable; shards written before are untouched.
        """
        empty = np.zeros((0, self.header.num_codebooks), dtype=self.header.dtype)
        flat = np.concatenate([empty, *(rows.astype(self.header.dtype) for rows in codes)])
        arrays = {
            "codes": flat,
            "offsets": np.cumsum([0, *(len(rows) for rows in codes)], dtype=np.int64),
            "segments": np.asarray(segments, dtype=np.int64),
        }
        try:
            with replacing(_shard_path(self.directory, shard)) as temporary:
                save_file(arrays, temporary)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{self.directory} cannot be written ({error}); free some space and run again, "
                "finished shards are kept"
            ) from None


class TokenStore:
    """Random access to the tokens of a complete store."""

    def __init__(self, directory: Path, header: TokenHeader) -> None:
        self.directory = directory
        self.header = header
        index: list[np.ndarray] = []  # rows of segment, shard, first frame, one past the last
        for shard in range(header.num_shards):
            path = _shard_path(directory, shard)
            try:
                with safe_open(path, framework="np") as file:
                    segments, offsets = file.get_tensor("segments"), file.get_tensor("offsets")
            except (SafetensorError, OSError) as error:
                raise ValueError(
                    f"{path} is damaged ({error}); delete it and run the tokens stage again"
                ) from None
            shards = np.full(len(segments), shard)
            index.append(np.stack([segments, shards, offsets[:-1], offsets[1:]], axis=1))
        table = np.concatenate(index) if index else np.zeros((0, 4), dtype=np.int64)
        self._table = table[np.argsort(table[:, 0])]
        self._files: dict[int, Any] = {}

    @property
    def num_codebooks(self) -> int:
        return self.header.num_codebooks

    @classmethod
    def open(
        cls, directory: str | os.PathLike[str], expect: Mapping[str, Any] | None = None
    ) -> Self:
        """Open a complete store.

        Args:
            directory: where ``extract_tokens`` wrote.
            expect: header fields and the values they must have, e.g. ``teacher_hash`` and ``data``.

        Raises:
            ValueError: no store, an incomplete or damaged one, or another value than expected.
        """
        directory = Path(directory)
        path = directory / HEADER
        if not path.is_file():
            raise ValueError(f"{directory} holds no token store; run the tokens stage first")
        header = _read_header(path)
        check_header(path, header, expect or {})
        missing = sum(
            not _shard_path(directory, shard).is_file() for shard in range(header.num_shards)
        )
        if missing:
            raise ValueError(
                f"{directory} is incomplete: {missing} of {header.num_shards} shards are missing; "
                "run the tokens stage again, it goes on where it stopped"
            )
        return cls(directory, header)

    def get(self, segment: int) -> np.ndarray | None:
        """(T, N) codes of a segment, None if the store has none for it."""
        row = int(np.searchsorted(self._table[:, 0], segment))
        if row == len(self._table) or self._table[row, 0] != segment:
            return None
        _, shard, start, stop = (int(value) for value in self._table[row])
        if shard not in self._files:
            path = _shard_path(self.directory, shard)
            self._files[shard] = safe_open(path, framework="np").get_slice("codes")
        codes: np.ndarray = self._files[shard][start:stop]
        return codes

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}


def check_header(path: Path, header: TokenHeader, expect: Mapping[str, Any]) -> None:
    """Refuse a store of another teacher or other data; one line with both values of each field."""
    found = asdict(header)
    differing = [
        f"{name} {_plain(found[name])} instead of {_plain(value)}"
        for name, value in expect.items()
        if _plain(found[name]) != _plain(value)
    ]
    if differing:
        raise ValueError(
            f"{path} was made with {', '.join(differing)}; delete {path.parent} to extract again"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _read_header(path: Path) -> TokenHeader:
    try:
        content = json.loads(path.read_text())
        known = {field.name: content[field.name] for field in fields(TokenHeader)}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a token store's header ({error}); delete {path.parent}"
        ) from None
    return TokenHeader(**known | {"domains": tuple(known["domains"])})


def _shard_path(directory: Path, shard: int) -> Path:
    return directory / f"shard-{shard:06d}.safetensors"
