"""Hugging Face ``datasets``, on disk or from the hub, as a data source; we decode the audio."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ssl_audio import audio
from ssl_audio.data.clips import Clip
from ssl_audio.data.manifest import clip_domain
from ssl_audio.data.source import Source, check_usable
from ssl_audio.files import replacing

COLUMNS = ("id", "domain", "num_samples", "sample_rate_hz", "split")


class HuggingFaceSource(Source):
    """Rows of a dataset with an ``audio`` column (bytes or paths of encoded audio).

    Columns ``id``, ``domain``, ``num_samples`` with ``sample_rate_hz`` and ``split`` are used when
    they are there. Without lengths every row's header is read once, with a progress bar.

    Args:
        path: folder written by ``save_to_disk``, or the name of a dataset on the hub.
        split: of a dataset with several; required then.
        name: configuration of a dataset on the hub.
        audio_column: name of the column with the audio.
        domain: of rows that do not say: "speech" or "audio".
        cache_dir: keeps lengths that had to be looked up.
        max_bad_fraction: refuse the dataset when more of its rows are unusable.

    Raises:
        ValueError: no such dataset, split or column, or too many bad rows.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        split: str | None = None,
        name: str | None = None,
        audio_column: str = "audio",
        domain: str = "audio",
        cache_dir: str | os.PathLike[str] | None = None,
        max_bad_fraction: float = 0.5,
    ) -> None:
        domain = clip_domain(domain, "data.source.domain")
        dataset = _load(str(path), split, name)
        if audio_column not in dataset.column_names:
            columns = ", ".join(dataset.column_names)
            raise ValueError(
                f"{path} has no column {audio_column!r} (found: {columns}); "
                "set data.source.audio_column"
            )
        self._name, self._column = str(path), audio_column
        self._audio = dataset.select_columns([audio_column])
        if not isinstance(dataset.features[audio_column], dict):  # else a struct of bytes and path
            from datasets import Audio

            self._audio = self._audio.cast_column(audio_column, Audio(decode=False))
        given = dataset.select_columns([c for c in COLUMNS if c in dataset.column_names])
        table: dict[str, list[Any]] = given[:] if given.column_names else {}
        lengths = self._lengths(table, len(dataset), dataset._fingerprint, cache_dir)
        self.clips, self.skipped, self._rows = [], [], []
        for row, (num_samples, rate_hz, error) in enumerate(lengths):
            clip_id = str(table["id"][row]) if "id" in table else f"{row:08d}"
            if error:
                self.skipped.append((clip_id, error))
                continue
            label = table["domain"][row] if "domain" in table else None
            where = f"{path}, row {row}"
            kind = clip_domain(label, where) if label else domain
            tags = {"split": str(table["split"][row])} if "split" in table else {}
            self.clips.append(Clip(clip_id, where, num_samples, rate_hz, kind, tags=tags))
            self._rows.append(row)
        check_usable(str(path), self.clips, self.skipped, max_bad_fraction)

    def read(
        self, index: int, start_sec: float = 0.0, duration_sec: float | None = None
    ) -> np.ndarray:
        encoded = self._encoded(self._rows[index])
        return audio.read(encoded, start_sec, duration_sec, name=self.clips[index].id)

    def _encoded(self, row: int) -> bytes | str:
        value = self._audio[row][self._column]
        if value is None or not (value.get("bytes") or value.get("path")):
            raise audio.AudioError(f"{self._name}, row {row}: no audio; remove the row")
        return value["bytes"] or str(value["path"])

    def _lengths(
        self,
        table: dict[str, list[Any]],
        num_rows: int,
        fingerprint: str,
        cache_dir: str | os.PathLike[str] | None,
    ) -> list[tuple[int, int, str]]:
        """(samples, rate, error) of every row."""
        if "num_samples" in table and "sample_rate_hz" in table:
            pairs = zip(table["num_samples"], table["sample_rate_hz"], strict=True)
            return [
                (n, rate, "" if n and rate and min(n, rate) > 0 else f"{n} samples at {rate} Hz")
                for n, rate in pairs
            ]
        cache = None if cache_dir is None else Path(cache_dir) / f"lengths_{fingerprint}.json"
        if cache is not None and cache.is_file():
            return [(n, rate, error) for n, rate, error in json.loads(cache.read_text())]
        from rich.progress import track

        found = [
            self._length(row)
            for row in track(range(num_rows), "Reading audio lengths", transient=True)
        ]
        if cache is not None:
            with replacing(cache) as temporary:
                temporary.write_text(json.dumps(found))
        return found

    def _length(self, row: int) -> tuple[int, int, str]:
        try:
            header = audio.info(self._encoded(row), name=f"{self._name}, row {row}")
        except (audio.AudioError, OSError) as error:
            return 0, 0, str(error)
        return header.num_samples, header.sample_rate_hz, ""


class DemoSource(HuggingFaceSource):
    """The generated demo corpus; made on first use in ``cache_dir`` (see ``build_demo_corpus``)."""

    def __init__(
        self, cache_dir: str | os.PathLike[str], *, seed: int = 0, minutes: float = 30
    ) -> None:
        from ssl_audio.data.demo.corpus import build_demo_corpus

        super().__init__(build_demo_corpus(Path(cache_dir), seed=seed, minutes=minutes))


def _load(path: str, split: str | None, name: str | None) -> Any:
    """One ``datasets.Dataset``."""
    import datasets

    try:
        if Path(path).is_dir() and any(
            Path(path, file).is_file() for file in ("state.json", "dataset_dict.json")
        ):
            loaded = datasets.load_from_disk(path)
        else:
            loaded = datasets.load_dataset(path, name)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"the dataset {path} cannot be loaded ({first})") from error
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise ValueError(
                f"{path} has the splits {', '.join(loaded)}; set data.split to one of them"
            )
        return loaded[split]
    return loaded
