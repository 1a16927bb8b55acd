"""QUESST 2014: spoken queries, documents, and which document holds which query."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

LANGUAGE = "nnenglish"  # SUPERB keeps the English part
_FOUND = re.compile(r"LEXEME\s+(\S+)(?:\s+\S+){3}\s+(\S+)")


@dataclass(frozen=True, slots=True)
class QuerySplit:
    """Queries by file, documents by file, and the names of the documents that hold a query.

    ``matches`` has the queries of all languages, ``num_documents`` counts their documents.
    """

    queries: tuple[Path, ...]
    documents: tuple[Path, ...]
    matches: dict[str, list[str]]
    num_documents: int


def read_quesst(directory: Path, split: str) -> QuerySplit:
    """The English queries of ``dev`` or ``eval`` and the English documents.

    Args:
        directory: ``quesst14Database``.
        split: "dev" or "eval".

    Raises:
        ValueError: a file that is missing, or no English query.
    """
    scoring = directory / "scoring"
    queries = _english(directory, scoring / f"language_key_{split}.lst")
    spoken = scoring / "language_key_utterances.lst"
    documents = _english(directory, spoken)
    truth = scoring / f"groundtruth_quesst14_{split}" / f"quesst14_{split}.rttm"
    matches: dict[str, list[str]] = defaultdict(list)
    for line in _read(truth).splitlines():
        if found := _FOUND.match(line):
            matches[found[2]].append(found[1])
    return QuerySplit(queries, documents, dict(matches), len(_rows(spoken)))


def _english(directory: Path, path: Path) -> tuple[Path, ...]:
    # Paths in the list start with a folder of the organisers' machine.
    files = [row[0].split("/", 1)[-1] for row in _rows(path) if row[1:] == [LANGUAGE]]
    if not files:
        raise ValueError(f"{path} names no {LANGUAGE} file; unpack quesst14Database.tgz again")
    return tuple(directory / file for file in files)


def _rows(path: Path) -> list[list[str]]:
    return [line.split() for line in _read(path).splitlines() if line.strip()]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"{path} is missing; unpack quesst14Database.tgz of speech.fit.vutbr.cz there"
        ) from error
