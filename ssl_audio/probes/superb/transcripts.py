"""Transcribed corpora in the folders that their archives unpack to.

LibriSpeech (openslr.org/12), Common Voice 7 (commonvoice.mozilla.org), SBCSAE as s3prl prepares it,
Audio SNIPS as SUPERB distributes it.
"""

from __future__ import annotations

import csv
import re
import string
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_audio.probes.superb.task import Utterance

SILENT_PUNCTUATION = set("?!.,;-")
# s3prl downstream/ctc/corpus/common_voice_preprocess.py: what counts as punctuation besides ASCII.
_FOREIGN_PUNCTUATION = "「」、⋯。《》丶–—―‘“”『』〜ー・☭«»،؛؟‐−¡¿ː ́·× ̃ ̌─〈〉"
_TO_SPACE = dict.fromkeys((string.punctuation.replace("'", "") + _FOREIGN_PUNCTUATION), " ")
_CLEANED = str.maketrans({**_TO_SPACE, "’": "'", "ㄧ": "一"})
_UNSPACED = ("zh-CN", "zh-TW", "ja")  # languages without spaces between words
_NO_LATIN = (*_UNSPACED, "ar", "ru")  # a sentence with a Latin letter is left out
_STRAY = {"es": set("しらゴミムラ消箱良"), "zh-CN": set("ΜИТオカドヤ䴕")}


@dataclass(frozen=True, slots=True)
class Transcribed:
    """One split: utterances whose targets are tuples of symbols, and lines on what is left out."""

    utterances: tuple[Utterance, ...]
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, symbols: Mapping[Path, Iterable[str]], *warnings: str) -> Transcribed:
        """From the symbols that are said in each file."""
        found = (Utterance(path.stem, path, tuple(said)) for path, said in symbols.items())
        return cls(tuple(found), warnings)


def read_librispeech(directory: Path, split: str) -> dict[Path, str]:
    """Transcripts of a part such as ``dev-clean`` by audio file.

    Raises:
        ValueError: the part is not there or a file has no transcript.
    """
    folder = directory / split
    texts: dict[Path, str] = {}
    for path in sorted(folder.rglob("*.trans.txt")):
        for line in _lines(path):
            name, _, text = line.partition(" ")
            texts[path.with_name(f"{name}.flac")] = text.strip()
    if not texts:
        raise ValueError(f"{folder} has no transcripts; unpack {split}.tar.gz of openslr.org/12")
    return texts


def letters(texts: Mapping[Path, str]) -> Transcribed:
    """Upper-case characters; each word ends in a space, the last one too."""
    return Transcribed.of({path: f"{text.upper()} " for path, text in texts.items()})


def phones(texts: Mapping[Path, str], lexicon: Mapping[str, Sequence[str]]) -> Transcribed:
    """The phones of the words; utterances with a word that the lexicon lacks are left out."""
    unknown = {path: set(text.split()) - lexicon.keys() for path, text in texts.items()}
    found = {
        path: [phone for word in text.split() for phone in lexicon[word]]
        for path, text in texts.items()
        if not unknown[path]
    }
    lacking = sorted(set().union(*unknown.values()))
    if not lacking:
        return Transcribed.of(found)
    return Transcribed.of(
        found,
        f"{len(texts) - len(found)} of {len(texts)} utterances left out: the lexicon lacks "
        f"{len(lacking)} words, {lacking[0]!r} among them",
    )


def read_lexicon(paths: Sequence[Path]) -> dict[str, tuple[str, ...]]:
    """Words to phones, the first pronunciation that any of the files gives.

    Raises:
        ValueError: no file, or one that cannot be read.
    """
    words: dict[str, tuple[str, ...]] = {}
    for path in paths:
        for line in _lines(path):
            word, *said = line.split()
            words.setdefault(word, tuple(said))
    if not words:
        raise ValueError(
            "no pronunciations; put librispeech-lexicon.txt of openslr.org/11, or the "
            "librispeech-lexicon-*-g2p.txt files of s3prl, beside the parts of LibriSpeech"
        )
    return words


def read_common_voice(
    directory: Path, split: str, language: str, accent: str | None = None
) -> Transcribed:
    """One split of a language's release folder, sentences normalised as SUPERB-SG does.

    Args:
        directory: with ``train.tsv`` and ``clips/``.
        split: "train", "dev" or "test".
        language: code of the release, "es" or "zh-CN".
        accent: keep only speakers of this one; None keeps all.

    Raises:
        ValueError: a file or column that is missing, or no sentence left.
    """
    rows = _table(directory / f"{split}.tsv", ("path", "sentence"))
    texts = {
        directory / "clips" / row["path"]: normalised_sentence(row["sentence"], language)
        for row in rows
        if accent in (None, row.get("accent", row.get("accents")))
    }
    found = {path: text for path, text in texts.items() if text}
    if not found:
        raise ValueError(f"{directory / f'{split}.tsv'}: no sentence of accent {accent!r} is left")
    return Transcribed.of(found)


def read_prepared(directory: Path, split: str) -> Transcribed:
    """``SPLIT.tsv`` with columns path (below ``wav/``) and sentence, as SBCSAE is prepared."""
    rows = _table(directory / f"{split}.tsv", ("path", "sentence"))
    return Transcribed.of({directory / "wav" / row["path"]: row["sentence"] for row in rows})


def normalised_sentence(text: str, language: str) -> str:
    """Upper case without punctuation; empty where the sentence is to be left out."""
    text = unicodedata.normalize("NFKC", text).upper().translate(_CLEANED)
    text = re.sub(" +", "" if language in _UNSPACED else " ", text).strip()
    latin = set(string.ascii_letters + "'")
    if language in _NO_LATIN and latin & set(text):
        return ""
    return "" if _STRAY.get(language, set()) & set(text) else text


def read_snips(directory: Path, split: str, speakers: Sequence[str]) -> Transcribed:
    """Characters and slot tokens of Audio SNIPS, for some of its synthetic speakers.

    Args:
        directory: with ``all.iob.snips.txt`` and a folder for each split.
        split: "train", "valid" or "test".
        speakers: whose names the file names start with.

    Raises:
        ValueError: a file that is missing, or no utterance of these speakers.
    """
    labels = dict(line.split(" ", 1) for line in _lines(directory / "all.iob.snips.txt"))
    paths = sorted((directory / split).rglob("*.wav"))
    spoken = [path for path in paths if path.stem.startswith(tuple(speakers))]
    known = [path for path in spoken if path.stem in labels]
    if not known:
        raise ValueError(
            f"{directory / split} has no labelled .wav of {', '.join(speakers)}; unpack SUPERB's "
            "Audio SNIPS there"
        )
    lost = len(spoken) - len(known)
    lines = [f"{lost} of {len(spoken)} utterances of {split} have no labels"] if lost else []
    return Transcribed.of({path: slot_symbols(labels[path.stem]) for path in known}, *lines)


def read_slots(directory: Path) -> tuple[str, ...]:
    """The opening and closing token of every slot type, as ``slot_symbols`` spells them."""
    slots = [line for line in _lines(directory / "slots.txt") if line != "O"]
    return tuple(token for slot in slots for token in (f"B-{slot} ", f" E-{slot}"))


def slot_symbols(label: str) -> tuple[str, ...]:
    """``BOS play jazz EOS TAB O O genre intent`` to P L A Y, space, ``B-genre ``, J A Z Z, …"""
    words, _, slots = (part.strip().split(" ") for part in label.partition("\t"))
    words, slots = words[1:-1], slots[1:-1]
    if len(words) != len(slots):
        raise ValueError(f"all.iob.snips.txt: {len(words)} words but {len(slots)} slots in {label}")
    symbols: list[str] = []
    for i, (word, slot) in enumerate(zip(words, slots, strict=True)):
        if word in SILENT_PUNCTUATION:
            continue
        if symbols:
            symbols.append(" ")
        if slot != "O" and (i == 0 or slots[i - 1] != slot):
            symbols.append(f"B-{slot} ")
        symbols += "AND" if word == "&" else word.upper()
        if slot != "O" and (i + 1 == len(slots) or slots[i + 1] != slot):
            symbols.append(f" E-{slot}")
    return tuple(symbols)


def _table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    lines = _lines(path)
    rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    if not rows or not set(columns) <= set(rows[0]):
        raise ValueError(f"{path} needs rows with the columns {', '.join(columns)}, tabs between")
    return rows


def _lines(path: Path) -> list[str]:
    """Lines that are not empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} is missing; unpack the corpus there") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); unpack it again") from error
    return [line for line in text.splitlines() if line.strip()]
