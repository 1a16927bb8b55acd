"""Recordings of several sources, in the folders that SUPERB's tasks start from.

Kaldi folders of Libri2Mix for diarization, Libri2Mix itself for separation, VoiceBank-DEMAND for
enhancement.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ssl_audio.probes.superb.task import Utterance

VALID_SPEAKERS = ("p226_", "p287_")  # of VoiceBank's training set, s3prl's choice


class Turn(NamedTuple):
    """A speaker talks, in seconds of the recording; speakers count from 0 in each recording."""

    speaker: int
    start_sec: float
    stop_sec: float


def read_turns(directory: Path, chunk_sec: float | None = None) -> list[Utterance]:
    """Recordings of a Kaldi folder (wav.scp, segments, utt2spk, reco2dur), with their turns.

    Args:
        directory: of one split; relative paths in ``wav.scp`` start here.
        chunk_sec: cut into stretches of this duration, the last may be shorter; None keeps
            recordings whole.

    Returns:
        Utterances whose targets are lists of ``Turn``, in seconds of the stretch.

    Raises:
        ValueError: a file or column that is missing, or audio behind a pipe.
    """
    paths = _columns(directory / "wav.scp", 2)
    speakers = dict(_columns(directory / "utt2spk", 2))
    durations = dict(_columns(directory / "reco2dur", 2))
    segments: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
    for utterance, recording, begin, end in _columns(directory / "segments", 4):
        segments[recording].append((speakers[utterance], float(begin), float(end)))
    found = []
    for recording, path in paths:
        if path.endswith("|"):
            raise ValueError(f"{directory / 'wav.scp'}: {recording} is a command; give audio files")
        names = sorted({speaker for speaker, _, _ in segments[recording]})
        turns = [Turn(names.index(name), a, b) for name, a, b in segments[recording]]
        total = float(durations[recording])
        size = chunk_sec or total
        for number in range(max(1, -(-int(total * 1000) // round(size * 1000)))):
            start = number * size
            found.append(
                Utterance(
                    f"{recording}@{start:.2f}s" if start else recording,
                    directory / path,
                    _within(turns, start, min(start + size, total)),
                    start,
                    size if chunk_sec else None,
                )
            )
    return found


def read_libri2mix(directory: Path, part: str) -> list[Utterance]:
    """Clean mixtures of two speakers; targets are the paths of the two.

    Args:
        directory: ``Libri2Mix``.
        part: "train-100", "dev" or "test".

    Raises:
        ValueError: a folder or file that is missing.
    """
    folder = directory / "wav16k" / "min" / part
    mixtures = sorted((folder / "mix_clean").glob("*.wav"))
    if not mixtures:
        raise ValueError(
            f"{folder / 'mix_clean'} has no .wav; make Libri2Mix at 16 kHz, mode min, with "
            "generate_librimix_ss.sh of github.com/s3prl/LibriMix"
        )
    return [
        _mixture(path, [folder / name / path.name for name in ("s1", "s2")]) for path in mixtures
    ]


def read_voicebank(directory: Path, part: str) -> list[Utterance]:
    """Noisy speech of VoiceBank-DEMAND; the target is the path of the clean speech.

    Args:
        directory: with ``noisy_trainset_28spk_wav`` and its like, with or without ``_16k``.
        part: "train", "dev" (two speakers of the training set) or "test".

    Raises:
        ValueError: a folder or file that is missing.
    """
    stem = "testset_wav" if part == "test" else "trainset_28spk_wav"
    ending = "_16k" if (directory / f"noisy_{stem}_16k").is_dir() else ""
    noisy = sorted((directory / f"noisy_{stem}{ending}").glob("*.wav"))
    if part != "test":
        noisy = [p for p in noisy if p.name.startswith(VALID_SPEAKERS) == (part == "dev")]
    if not noisy:
        raise ValueError(
            f"{directory / f'noisy_{stem}{ending}'} has no .wav for {part}; unpack the 28-speaker "
            "sets of datashare.ed.ac.uk/handle/10283/2791 there"
        )
    clean = directory / f"clean_{stem}{ending}"
    return [_mixture(path, [clean / path.name]) for path in noisy]


def _mixture(path: Path, sources: Sequence[Path]) -> Utterance:
    for source in sources:
        if not source.is_file():
            raise ValueError(f"{source} is missing, but {path} is there; unpack the corpus again")
    return Utterance(path.stem, path, tuple(sources))


def _within(turns: Sequence[Turn], start_sec: float, stop_sec: float) -> list[Turn]:
    """What of the turns lies in a stretch, counted from its start."""
    cut = [
        Turn(
            t.speaker,
            max(t.start_sec, start_sec) - start_sec,
            min(t.stop_sec, stop_sec) - start_sec,
        )
        for t in turns
    ]
    return [turn for turn in cut if turn.start_sec < turn.stop_sec]


def _columns(path: Path, count: int) -> list[list[str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(
            f"{path} is missing; make the Kaldi folders with scripts/prepare_diarization.py of "
            "github.com/s3prl/LibriMix"
        ) from error
    rows = [line.split(None, count - 1) for line in lines if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) != count:
            raise ValueError(f"{path}, line {number}: {count} columns expected, {len(row)} found")
    return rows
