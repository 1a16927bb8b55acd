"""Scan audio files for their lengths, and keep clips as a jsonl manifest."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from ssl_audio import audio
from ssl_audio.data.clips import Clip
from ssl_audio.data.source import DOMAIN_OF_LABEL
from ssl_audio.files import replacing

AUDIO_SUFFIXES = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
    *(".aiff", ".aif", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64"),
)
SCAN_THREADS = 8
CHUNK = 1000  # files handed to the threads at a time: an interrupt waits for no more


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a scan found out about one file; ``error`` is empty for a usable one."""

    path: str
    num_bytes: int
    modified_ns: int
    num_samples: int = 0
    sample_rate_hz: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class ScanReport:
    """Clips found, and (path, reason) of the files that cannot be used."""

    clips: list[Clip]
    skipped: list[tuple[str, str]]

    def __str__(self) -> str:
        lines = []
        for domain in ("speech", "audio"):
            seconds = [clip.duration_sec for clip in self.clips if clip.domain == domain]
            if seconds:
                lines.append(
                    f"{domain}: {len(seconds)} clips, {sum(seconds) / 3600:.2f} h, "
                    f"{min(seconds):.2f} to {max(seconds):.2f} s"
                )
        lines.append(f"cannot be used: {len(self.skipped)} files")
        return "\n".join(lines + [f"  {reason}" for _, reason in self.skipped])


def find_audio(root: str | os.PathLike[str]) -> list[Path]:
    """Audio files below ``root`` in a fixed order; hidden ones are passed over.

    Raises:
        ValueError: no such folder, or no audio file in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; correct data.root")
    found: list[Path] = []
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [
            Path(folder, name)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES
        ]
    if not found:
        kinds = " ".join(AUDIO_SUFFIXES)
        raise ValueError(f"{root} holds no audio file ({kinds}); correct data.root")
    return sorted(found)


def scan_files(
    paths: Sequence[Path], cache: Path | None = None, *, decode: bool = False
) -> list[FileRecord]:
    """Read every header, with a progress bar; unusable files give a record with an ``error``.

    Args:
        paths: files.
        cache: jsonl of records from before; a file of the same size and time is not opened again.
            Updated even if the scan is interrupted.
        decode: decode the whole of every file, which finds truncation and NaN; ignores the cache.
    """
    from rich.progress import track

    known = {} if cache is None or decode else _read_cache(cache)
    records: list[FileRecord] = []
    try:
        found = _scan_in_threads(paths, partial(_scan_file, known=known, decode=decode))
        progress = track(found, "Scanning audio", total=len(paths), transient=True)
        records.extend(progress)
    finally:
        if cache is not None and records and records != list(known.values()):
            _write_lines(cache, records)
    return records


def scan_cache(cache_dir: str | os.PathLike[str] | None, scanned: Path) -> Path | None:
    """Where the scan of a folder or manifest is kept, if anywhere."""
    if cache_dir is None:
        return None
    name = str(scanned.resolve()).strip(os.sep).replace(os.sep, "_")[-150:]
    return Path(cache_dir) / f"scan_{name}.jsonl"


def clip_domain(label: str, where: str) -> str:
    """Domain of a manifest label or folder name such as "speech", "music" or "sound".

    Raises:
        ValueError: unknown; ``where`` names the file and row.
    """
    try:
        return DOMAIN_OF_LABEL[label.strip().lower()]
    except KeyError:
        raise ValueError(
            f"{where}: unknown domain {label!r}; use one of {', '.join(DOMAIN_OF_LABEL)}"
        ) from None


def scan_folder(
    root: str | os.PathLike[str],
    *,
    domain: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    decode: bool = False,
) -> ScanReport:
    """Every audio file below ``root`` as a clip, its relative path as id.

    Args:
        root: folder.
        domain: of all clips. By default a file below a folder called ``speech`` is speech and
            everything else is audio, the domain that every teacher labels.
        cache_dir: where to keep the scan (never inside ``root``).
        decode: see ``scan_files``.
    """
    root = Path(root)
    cache = scan_cache(cache_dir, root)
    clips: list[Clip] = []
    skipped: list[tuple[str, str]] = []
    for record in scan_files(find_audio(root), cache, decode=decode):
        if record.error:
            skipped.append((record.path, record.error))
            continue
        relative = Path(record.path).relative_to(root)
        clips.append(
            Clip(
                id=relative.as_posix(),
                path=record.path,
                num_samples=record.num_samples,
                sample_rate_hz=record.sample_rate_hz,
                domain=domain or ("speech" if "speech" in relative.parts[:-1] else "audio"),
            )
        )
    return ScanReport(clips, skipped)


def build_manifest(
    root: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    domain: str | None = None,
    decode: bool = False,
) -> ScanReport:
    """Scan ``root`` and write the usable clips to ``output``; print the report it returns.

    Paths are written relative to ``output`` when ``root`` lies beside or below it, else absolute.
    """
    report = scan_folder(root, domain=domain, decode=decode)
    base = Path(output).resolve().parent
    rows = []
    for clip in report.clips:
        path = Path(clip.path).resolve()
        inside = path.is_relative_to(base)
        row = asdict(clip) | {"path": path.relative_to(base).as_posix() if inside else str(path)}
        rows.append({name: value for name, value in row.items() if value not in (0.0, {})})
    with replacing(output) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return report


def _scan_file(path: Path, known: dict[str, FileRecord], decode: bool) -> FileRecord:
    try:
        stat = path.stat()
    except OSError:
        return FileRecord(str(path), 0, 0, error=f"{path}: no such file; correct the path")
    record = known.get(str(path))
    identity = (str(path), stat.st_size, stat.st_mtime_ns)
    if record is not None and (record.path, record.num_bytes, record.modified_ns) == identity:
        return record
    try:
        header = audio.info(path)
        if decode:
            audio.read(path, sample_rate_hz=header.sample_rate_hz)
    except (audio.AudioError, OSError) as error:
        return FileRecord(*identity, error=str(error))
    return FileRecord(*identity, header.num_samples, header.sample_rate_hz)


def _scan_in_threads(paths: Sequence[Path], scan: partial[FileRecord]) -> Iterator[FileRecord]:
    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        for start in range(0, len(paths), CHUNK):
            yield from pool.map(scan, paths[start : start + CHUNK])


def _read_cache(cache: Path) -> dict[str, FileRecord]:
    """Records by path; a missing or damaged cache is an empty one."""
    try:
        lines = cache.read_text(encoding="utf-8").splitlines()
        records = [FileRecord(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError):
        return {}
    return {record.path: record for record in records}


def _write_lines(path: Path, records: Iterable[FileRecord]) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(record)) + "\n" for record in records)
