"""A list of audio files (jsonl, csv or fairseq tsv) as a data source."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ssl_audio import audio
from ssl_audio.data.clips import Clip
from ssl_audio.data.manifest import FileRecord, clip_domain, scan_cache, scan_files
from ssl_audio.data.source import FileSource, check_usable

OWN_COLUMNS = {"id", "path", "num_samples", "sample_rate_hz", "domain", "start_sec", "tags"}
MAX_EXISTENCE_CHECKS = 200_000  # longer lists are checked while training


class ManifestSource(FileSource):
    """The clips that a manifest lists.

    A row has a ``path`` (relative ones are looked for in ``root``, else beside the manifest, else
    in the folder above it) and may have ``id`` (default: the path), ``domain``, ``start_sec``,
    ``num_samples`` with ``sample_rate_hz``; other columns become tags. Files of rows without a
    length are opened to find it. A tsv whose first line is a folder is fairseq's: paths and sample
    counts.

    Args:
        path: ``.jsonl``, ``.csv`` or ``.tsv``.
        root: folder that relative paths start from.
        domain: of rows that do not say: "speech" or "audio".
        cache_dir: keeps lengths that had to be looked up.
        max_bad_fraction: refuse the manifest when more of its rows are unusable.

    Raises:
        ValueError: no such manifest, a wrong column or value (with its row), too many bad files.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        root: str | os.PathLike[str] | None = None,
        domain: str = "audio",
        cache_dir: str | os.PathLike[str] | None = None,
        max_bad_fraction: float = 0.5,
    ) -> None:
        manifest = Path(path)
        if not manifest.is_file():
            raise ValueError(f"{manifest} does not exist; correct data.manifest")
        rows = _read_rows(manifest)
        if not rows:
            raise ValueError(f"{manifest} lists no clip; correct data.manifest")
        base = Path(root) if root is not None else _base_folder(manifest, str(rows[0]["path"]))
        paths = [Path(os.path.normpath(base / str(row["path"]))) for row in rows]
        records = _lengths(rows, paths, scan_cache(cache_dir, manifest))
        domain = clip_domain(domain, "data.source.domain")
        clips: list[Clip] = []
        skipped: list[tuple[str, str]] = []
        for number, (row, file) in enumerate(zip(rows, paths, strict=True), start=1):
            record = records.get(str(file))
            if record is not None and record.error:
                skipped.append((str(file), record.error))
                continue
            clips.append(_clip(row, file, record, domain, f"{manifest}, row {number}"))
        check_usable(str(manifest), clips, skipped, max_bad_fraction)
        super().__init__(clips, skipped)


def _clip(
    row: Mapping[str, Any], file: Path, record: FileRecord | None, domain: str, where: str
) -> Clip:
    label = row.get("domain")
    try:
        start_sec = float(row.get("start_sec") or 0.0)
        if row.get("num_samples"):
            num_samples, rate = int(row["num_samples"]), int(row["sample_rate_hz"])
        else:
            assert record is not None
            rate = record.sample_rate_hz
            num_samples = record.num_samples - round(start_sec * rate)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: not a number ({error}); correct the row") from None
    if rate <= 0 or num_samples <= 0 or start_sec < 0:
        raise ValueError(
            f"{where}: {num_samples} samples at {rate} Hz from {start_sec} s; correct the row"
        )
    name = str(row.get("id") or row["path"])
    tags = {key: str(value) for key, value in row.items() if key not in OWN_COLUMNS and value}
    if isinstance(row.get("tags"), dict):
        tags |= {key: str(value) for key, value in row["tags"].items()}
    return Clip(
        id=name,
        path=str(file),
        num_samples=num_samples,
        sample_rate_hz=rate,
        domain=clip_domain(label, where) if label else domain,
        start_sec=start_sec,
        tags=tags,
    )


def _lengths(
    rows: list[dict[str, Any]], paths: list[Path], cache: Path | None
) -> dict[str, FileRecord]:
    """Scan records of the files that the manifest gives no length for or that are missing."""
    unknown = [file for row, file in zip(rows, paths, strict=True) if not row.get("num_samples")]
    found = {record.path: record for record in scan_files(list(dict.fromkeys(unknown)), cache)}
    if len(paths) <= MAX_EXISTENCE_CHECKS:
        for file in paths:
            if str(file) not in found and not file.is_file():
                error = f"{file}: no such file; correct the path or data.root"
                found[str(file)] = FileRecord(str(file), 0, 0, error=error)
    return found


def _base_folder(manifest: Path, first: str) -> Path:
    candidates = (manifest.parent, manifest.parent.parent)
    return next((base for base in candidates if (base / first).is_file()), manifest.parent)


def _read_rows(manifest: Path) -> list[dict[str, Any]]:
    readers = {".jsonl": _read_jsonl, ".json": _read_jsonl, ".csv": _read_csv, ".tsv": _read_tsv}
    reader = readers.get(manifest.suffix.lower())
    if reader is None:
        raise ValueError(
            f"{manifest}: a manifest is a .jsonl, .csv or .tsv file; rename or convert"
        )
    try:
        rows = list(reader(manifest))
    except UnicodeDecodeError:
        raise ValueError(f"{manifest} is not UTF-8 text; convert it") from None
    for number, row in enumerate(rows, start=1):
        where = f"{manifest}, row {number}"
        if not row.get("path"):
            columns = ", ".join(str(key) for key in row)
            raise ValueError(f"{where}: no column 'path' (found: {columns}); rename the column")
        if row.get("num_samples") and not row.get("sample_rate_hz"):
            raise ValueError(f"{where}: 'num_samples' without 'sample_rate_hz'; add the rate in Hz")
    return rows


def _read_jsonl(manifest: Path) -> Iterable[dict[str, Any]]:
    with manifest.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"{manifest}, line {number}: not a JSON object; one row a line")
            yield row


def _read_csv(manifest: Path, delimiter: str = ",") -> Iterable[dict[str, Any]]:
    with manifest.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter=delimiter):
            if None in row or None in row.values():
                raise ValueError(f"{manifest}: {list(row.values())} has another number of columns")
            yield row


def _read_tsv(manifest: Path) -> Iterable[dict[str, Any]]:
    """fairseq: the root folder, then path and number of samples, all at the first file's rate."""
    with manifest.open(encoding="utf-8") as file:
        root = file.readline().rstrip("\n")
        if "\t" in root:
            yield from _read_csv(manifest, "\t")
            return
        rows = [line.rstrip("\n").split("\t") for line in file if line.strip()]
    for number, row in enumerate(rows, start=2):
        if len(row) != 2 or not row[1].isdigit():
            raise ValueError(f"{manifest}, line {number}: expected a path, a tab, a sample count")
    rate = next(filter(None, (_rate_of(os.path.join(root, path)) for path, _ in rows)), None)
    if rows and rate is None:
        raise ValueError(f"{manifest}: no file below {root} can be read; correct its first line")
    for path, count in rows:
        yield {
            "id": path,
            "path": os.path.join(root, path),
            "num_samples": count,
            "sample_rate_hz": rate,
        }


def _rate_of(path: str) -> int | None:
    try:
        return audio.info(path).sample_rate_hz
    except (audio.AudioError, OSError):
        return None
