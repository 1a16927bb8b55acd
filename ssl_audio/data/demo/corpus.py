"""The built-in corpus: about half an hour of labelled speech, sound events and notes, made locally.

Columns of the ``datasets`` dataset on disk:

- ``id``, ``domain`` ("speech" or "audio"), ``split`` ("train", "valid", "test")
- ``audio``: {"bytes": a FLAC file, "path": null}; ``num_samples``, ``sample_rate_hz``
- speech only: ``language``, ``voice``, ``text``, and the lists ``words``, ``phones`` (broad IPA,
  "sil" for pauses) and ``nuclei`` (vowel phones) of {"label", "start_sec", "end_sec"}
- audio only: either ``event`` or both ``instrument`` and ``pitch`` (MIDI note number)

What does not apply is null or an empty list.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from ssl_audio.data.demo.channel import SAMPLE_RATE_HZ
from ssl_audio.data.demo.espeak import require_espeak
from ssl_audio.data.demo.notes import INSTRUMENTS
from ssl_audio.data.demo.sounds import EVENT_CLASSES, event_clips, note_clips
from ssl_audio.data.demo.speech import LANGUAGES, language_clips

VERSION = 1  # part of the cache key: raise it whenever the same seed would give other clips
# Clips per language, event class and instrument in 30 minutes.
CLIPS_PER_LANGUAGE, CLIPS_PER_EVENT, CLIPS_PER_INSTRUMENT = 24, 22, 24
_NOMINAL_MINUTES = 30.0

Clips = list[dict[str, Any]]
Task = tuple[Callable[[str, int, int], Clips], str, int]


def build_demo_corpus(
    cache_dir: str | Path,
    seed: int = 0,
    minutes: float = 30.0,
    num_workers: int = 2,
    show_progress: bool = True,
) -> Path:
    """The folder of the corpus under ``cache_dir``, built if it is not there yet.

    The same ``seed`` and ``minutes`` give the same bytes, with any number of workers; the folder
    appears complete or not at all.

    Args:
        minutes: length of the whole corpus, met within some ten percent; 1 to 600.

    Raises:
        ValueError: ``minutes``, ``seed`` or ``num_workers`` out of range.
        ImportError: the extra ``ssl-audio[demo]`` is missing.
    """
    if not 1 <= minutes <= 600:
        raise ValueError(f"demo corpus: minutes={minutes}, choose between 1 and 600")
    if seed < 0:
        raise ValueError(f"demo corpus: seed={seed}, choose 0 or above")
    if num_workers < 1:
        raise ValueError(f"demo corpus: num_workers={num_workers}, choose 1 or more")
    cache_dir = Path(cache_dir)
    folder = cache_dir / f"demo-v{VERSION}-seed{seed}-{minutes:g}min"
    if folder.is_dir():
        return folder
    require_espeak()
    cache_dir.mkdir(parents=True, exist_ok=True)
    clips = _run_tasks(corpus_tasks(minutes), seed, num_workers, show_progress)
    unfinished = Path(tempfile.mkdtemp(prefix=".demo-", dir=cache_dir))
    try:
        _save(clips, unfinished / "corpus", fingerprint=folder.name)
        _rename(unfinished / "corpus", folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def corpus_tasks(minutes: float) -> list[Task]:
    """What to synthesise: function, class and number of clips, in the order of the corpus."""

    def scaled(count: int) -> int:
        return max(1, round(count * minutes / _NOMINAL_MINUTES))

    return [
        *((language_clips, name, scaled(CLIPS_PER_LANGUAGE)) for name in LANGUAGES),
        *((event_clips, name, scaled(CLIPS_PER_EVENT)) for name in EVENT_CLASSES),
        *((note_clips, name, scaled(CLIPS_PER_INSTRUMENT)) for name in INSTRUMENTS),
    ]


def _run_tasks(tasks: list[Task], seed: int, num_workers: int, show_progress: bool) -> Clips:
    """All clips in the order of ``tasks``.

    A fresh process per language, because eSpeak NG remembers what it said before; the other tasks
    share two processes.
    """
    from rich.progress import Progress

    context = multiprocessing.get_context("spawn")
    speech, sounds = (
        ProcessPoolExecutor(num_workers, mp_context=context, max_tasks_per_child=limit)
        for limit in (1, None)
    )
    with Progress(disable=not show_progress) as progress, speech, sounds:
        bar = progress.add_task("demo corpus", total=sum(count for _, _, count in tasks))
        futures: list[Future[Clips]] = [
            (speech if function is language_clips else sounds).submit(function, name, count, seed)
            for function, name, count in tasks
        ]
        try:
            for future in as_completed(futures):
                progress.advance(bar, len(future.result()))
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    return [clip for future in futures for clip in future.result()]


def _save(clips: Clips, folder: Path, fingerprint: str) -> None:
    import datasets
    import pyarrow as pa

    span = [
        {
            "label": datasets.Value("string"),
            "start_sec": datasets.Value("float64"),
            "end_sec": datasets.Value("float64"),
        }
    ]
    text, number = datasets.Value("string"), datasets.Value("int64")
    features = datasets.Features(
        {
            "id": text,
            "audio": {"bytes": datasets.Value("binary"), "path": text},
            "domain": text,
            "split": text,
            "num_samples": number,
            "sample_rate_hz": number,
            "language": text,
            "voice": text,
            "text": text,
            "words": span,
            "phones": span,
            "nuclei": span,
            "event": text,
            "instrument": text,
            "pitch": number,
        }
    )
    empty = {name: [] if name in ("words", "phones", "nuclei") else None for name in features}
    rows = [empty | {"sample_rate_hz": SAMPLE_RATE_HZ} | clip for clip in clips]
    table = pa.Table.from_pylist(rows, schema=features.arrow_schema)
    info = datasets.DatasetInfo(features=features, description=__doc__)
    # A fingerprint of our own: the default one is random and would change the bytes on disk.
    dataset = datasets.Dataset(table, info=info, fingerprint=fingerprint)
    dataset.save_to_disk(folder, num_shards=1)


def _rename(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError:
        if not target.is_dir():  # otherwise another process was faster, with the same bytes
            raise
