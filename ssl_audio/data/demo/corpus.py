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
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from ssl_audio.data.demo.channel import SAMPLE_RATE_HZ
from ssl_audio.data.demo.espeak import require_espeak
from ssl_audio.data.demo.notes import INSTRUMENTS
from ssl_audio.data.demo.sounds import EVENT_CLASSES, event_clips, note_clips
from ssl_audio.data.demo.speech import LANGUAGES, language_clips

VERSION = 4  # part of the cache key: raise it whenever the same seed would give other clips
# Clips per language, event class and instrument in 30 minutes.
CLIPS_PER_LANGUAGE, CLIPS_PER_EVENT, CLIPS_PER_INSTRUMENT = 24, 20, 48
_NOMINAL_MINUTES = 30.0

Clips = list[dict[str, Any]]
Task = tuple[Callable[[str, int, int], Clips], str, int]


def build_demo_corpus(
    cache_dir: str | Path,
    seed: int = 0,
    minutes: float = 30.0,
    show_progress: bool = True,
) -> Path:
    """The folder of the corpus under ``cache_dir``, built if it is not there yet.

    The same ``seed`` and ``minutes`` give the same bytes; the folder appears complete or not at
    all.

    Args:
        minutes: length of the whole corpus, met within some ten percent; 1 to 600.

    Raises:
        ValueError: ``minutes`` or ``seed`` out of range.
        ImportError: the extra ``ssl-audio[demo]`` is missing.
    """
    if not 1 <= minutes <= 600:
        raise ValueError(f"demo corpus: minutes={minutes}, choose between 1 and 600")
    if seed < 0:
        raise ValueError(f"demo corpus: seed={seed}, choose 0 or above")
    cache_dir = Path(cache_dir)
    folder = cache_dir / f"demo-v{VERSION}-seed{seed}-{minutes:g}min"
    if folder.is_dir():
        return folder
    require_espeak()
    cache_dir.mkdir(parents=True, exist_ok=True)
    clips = _run_tasks(corpus_tasks(minutes), seed, show_progress)
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


def _run_tasks(tasks: list[Task], seed: int, show_progress: bool) -> Clips:
    """All clips in the order of ``tasks``, speech before the rest.

    All speech comes from one fresh process, because eSpeak NG remembers what it said before; a
    second process makes the sounds, which takes about as long.
    """
    from rich.progress import Progress

    context = multiprocessing.get_context("spawn")
    done = context.Value("q", 0)
    speech = [task for task in tasks if task[0] is language_clips]
    sounds = tasks[len(speech) :]
    assert speech + sounds == tasks
    with (
        Progress(disable=not show_progress) as progress,
        ProcessPoolExecutor(2, context, initializer=_count_in, initargs=(done,)) as pool,
    ):
        bar = progress.add_task("demo corpus", total=sum(count for _, _, count in tasks))
        futures = [pool.submit(_work, part, seed) for part in (speech, sounds)]
        while wait(futures, timeout=0.2, return_when=FIRST_EXCEPTION).not_done:
            progress.update(bar, completed=done.value)
            if any(future.done() and future.exception() for future in futures):
                break
        progress.update(bar, completed=done.value)
        return [clip for future in futures for clip in future.result()]


_done: Any = None  # in a worker: the shared count of finished clips


def _count_in(counter: Any) -> None:
    global _done
    _done = counter


def _work(tasks: list[Task], seed: int) -> Clips:
    clips: Clips = []
    for function, name, count in tasks:
        clips += function(name, count, seed)
        with _done.get_lock():
            _done.value += count
    return clips


def _save(clips: Clips, folder: Path, fingerprint: str) -> None:
    import datasets

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
    empty: dict[str, Any] = {
        name: [] if name in ("words", "phones", "nuclei") else None for name in features
    }
    rows = [empty | {"sample_rate_hz": SAMPLE_RATE_HZ} | clip for clip in clips]
    dataset = datasets.Dataset.from_list(rows, features=features)
    # Names of our own, where the defaults are random or would change the bytes on disk.
    dataset = datasets.Dataset(dataset.data, info=dataset.info, fingerprint=fingerprint)
    quiet = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # writing takes a fraction of a second
    try:
        dataset.save_to_disk(folder, num_shards=1)
    finally:
        if not quiet:
            datasets.enable_progress_bars()


def _rename(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError:
        if not target.is_dir():  # otherwise another process was faster, with the same bytes
            raise
