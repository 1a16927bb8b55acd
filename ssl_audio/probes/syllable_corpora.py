"""Recordings whose syllables are known: the demo corpus, or a folder task with segments."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ssl_audio import audio
from ssl_audio.probes.abx_task import AbxTask, demo_abx
from ssl_audio.probes.demo import SILENCE, read_rows
from ssl_audio.probes.folder import FolderLimits, folder_suite
from ssl_audio.probes.recordings import Recording
from ssl_audio.probes.suite import SPLITS

Span = tuple[float, float, str]  # start and end in seconds, label

TASK_PREFIX = "syllables"
MIN_TIME_SEC = 1e-4  # phones of one word that lie closer touch


@dataclass(frozen=True, slots=True)
class SyllableRecording:
    """A recording and its syllables: ``segments`` (n, 2) seconds, and a label of each."""

    recording: Recording
    segments: np.ndarray
    labels: tuple[str, ...]

    @classmethod
    def of(
        cls, name: str, source: str | bytes, duration_sec: float, spans: Sequence[Span]
    ) -> SyllableRecording:
        """From a path or an encoded file, and (start, end, label) in any order."""
        ordered = sorted(spans)
        return cls(
            Recording(name, duration_sec, partial(audio.read, source, name=name)),
            np.array([span[:2] for span in ordered], np.float64).reshape(-1, 2),
            tuple(span[2] for span in ordered),
        )


@dataclass(frozen=True, slots=True)
class SyllableCorpus:
    """Recordings by split: train for units, valid for choices, test for scores.

    ``abx`` has items of phones in the test recordings, if phones are known; ``problem`` says why
    there are no recordings.
    """

    name: str
    splits: Mapping[str, tuple[SyllableRecording, ...]]
    abx: AbxTask | None = None
    problem: str | None = None


def syllable_corpora(root: str | Path, tasks: Sequence[str] | None = None) -> list[SyllableCorpus]:
    """The demo corpus at ``root``, or tasks below ``ROOT/probes``.

    Args:
        root: either folder.
        tasks: names to read; None reads all whose name begins with "syllables".

    Raises:
        ValueError: neither is there, or none of the tasks can be used.
    """
    home = Path(root)
    if not (home / "probes").is_dir():
        return [demo_syllables(home)]
    found = sorted(path.parent.name for path in (home / "probes").glob(f"{TASK_PREFIX}*/test.csv"))
    if not found and tasks is None:
        raise ValueError(f"{home / 'probes'}: no task called {TASK_PREFIX}…; name one with --tasks")
    corpora = []
    for task in found if tasks is None else tasks:
        try:
            corpora.append(folder_syllables(home, task))
        except ValueError as error:
            corpora.append(SyllableCorpus(task, {}, problem=str(error)))
    if all(corpus.problem for corpus in corpora):
        raise ValueError(corpora[0].problem)
    return corpora


def folder_syllables(root: str | Path, task: str) -> SyllableCorpus:
    """A folder task (``probes.folder``) whose segments are syllables.

    Raises:
        ValueError: as ``folder_suite``, or the task has no segments.
    """
    suite = folder_suite(root, [task], FolderLimits(None, None, None, None))
    if suite.tasks[0].unit != "segment":
        raise ValueError(f"{root}: task {task!r} has no segments; choose one with start and end")
    splits = {}
    for split in SPLITS:
        spans: dict[str, list[Span]] = defaultdict(list)
        for example in suite.tasks[0].examples[split]:
            assert example.end_sec is not None
            spans[example.clip].append((example.start_sec, example.end_sec, example.label))
        clips = [(suite.clips[name], rows) for name, rows in sorted(spans.items())]
        splits[split] = tuple(
            SyllableRecording.of(clip.id, clip.source, clip.duration_sec, rows)
            for clip, rows in clips
        )
    return SyllableCorpus(task, splits)


def demo_syllables(directory: str | Path) -> SyllableCorpus:
    """Speech of the demo corpus, with the syllables that its phones make up.

    Raises:
        ValueError: no demo corpus there.
    """
    found: dict[str, list[SyllableRecording]] = {split: [] for split in SPLITS}
    for row in read_rows(Path(directory)):
        if row["phones"]:
            spans = syllables_of_phones(row["words"], row["phones"], row["nuclei"])
            duration_sec = row["num_samples"] / row["sample_rate_hz"]
            found[row["split"]].append(
                SyllableRecording.of(row["id"], row["audio"]["bytes"], duration_sec, spans)
            )
    splits = {split: tuple(recordings) for split, recordings in found.items()}
    return SyllableCorpus("demo", splits, demo_abx(directory))


def syllables_of_phones(
    words: Sequence[Mapping[str, Any]],
    phones: Sequence[Mapping[str, Any]],
    nuclei: Sequence[Mapping[str, Any]],
) -> list[Span]:
    """Syllables (start, end, phones) in seconds: one per nucleus of a word.

    Inside a word, one consonant before a nucleus belongs to it and those before that to the nucleus
    before; the consonants at both ends of the word go to its first and last nucleus. The rule is
    that of most languages for single consonants; a cluster such as "str" is cut in its middle.
    Words without a nucleus join no syllable.
    """
    vowels = {(nucleus["start_sec"], nucleus["end_sec"]) for nucleus in nuclei}
    found = []
    for word in words:
        inside = [
            phone
            for phone in phones
            if phone["label"] != SILENCE
            and word["start_sec"] - MIN_TIME_SEC <= phone["start_sec"]
            and phone["end_sec"] <= word["end_sec"] + MIN_TIME_SEC
        ]
        at = [i for i, x in enumerate(inside) if (x["start_sec"], x["end_sec"]) in vowels]
        onsets = [max(i - 1, previous + 1) for previous, i in itertools.pairwise(at)]
        for first, last in zip([0, *onsets], [*onsets, len(inside)], strict=True):
            part = inside[first:last] if at else []
            if part:
                label = "".join(phone["label"] for phone in part)
                found.append((part[0]["start_sec"], part[-1]["end_sec"], label))
    return found
