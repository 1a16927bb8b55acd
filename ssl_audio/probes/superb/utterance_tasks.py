"""KS, IC, ER and SID from their original folders (SUPERB, arXiv:2105.01051; s3prl ec8064b)."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from ssl_audio import audio
from ssl_audio.probes.superb.pooled_task import Fold, PooledTask
from ssl_audio.probes.superb.task import Recipe, Utterance, needed
from ssl_audio.rng import sample_generator

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
UNKNOWN, SILENCE, NOISE_FOLDER = "_unknown_", "_silence_", "_background_noise_"
MAX_PER_CLASS = 2**27 - 1  # the corpus' README defines its hash with it
SLOTS = ("action", "object", "location")
EMOTIONS = {"neu": "neutral", "hap": "happy", "exc": "happy", "ang": "angry", "sad": "sad"}


class KeywordSpotting(PooledTask):
    """Speech Commands 0.01: ten words, others and silence.

    A tenth of the speakers validates, another tenth is left out, the test archive tests. Silence
    is drawn from the background recordings once (s3prl: anew each time).
    """

    balanced = True
    gain_db = -3.0  # s3prl, downstream/speech_commands

    def __init__(self, folder: Path, recipe: Recipe, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        train_root = needed(folder / recipe.options["train"], "speech_commands_v0.01.tar.gz")
        test_root = needed(folder / recipe.options["test"], "speech_commands_test_set_v0.01.tar.gz")
        spoken: dict[str, list[Utterance]] = {"train": [], "valid": []}
        for path in sorted(train_root.glob("*/*.wav")):
            split = _split_of(path.name)
            if path.parent.name != NOISE_FOLDER and split in spoken:
                spoken[split].append(_word(path))
        test = [_word(path) for path in sorted(test_root.glob("*/*.wav"))]
        noises = sorted(train_root.glob(f"{NOISE_FOLDER}/*.wav"))
        silence = {
            split: self._silence(noises, split, int(recipe.options[f"{split}_silences"]))
            for split in spoken
        }
        self.folds = [
            Fold([*spoken["train"], *silence["train"]], [*spoken["valid"], *silence["valid"]], test)
        ]
        _check_splits(train_root, self.folds[0])

    def _silence(self, noises: Sequence[Path], split: str, count: int) -> list[Utterance]:
        """Crops of a second."""
        drawn = []
        for number, path in enumerate(noises):
            longest = audio.info(path).duration_sec - 1.0
            rng = sample_generator(self.seed, f"superb_silence_{split}", number)
            starts = rng.uniform(0, max(0.0, longest), size=count // len(noises))
            drawn += [
                Utterance(f"{split}/{path.name}/{i}", path, (SILENCE,), float(start), 1.0)
                for i, start in enumerate(starts)
            ]
        return drawn


class IntentClassification(PooledTask):
    """Fluent Speech Commands: action, object and location, all three right."""

    def __init__(self, folder: Path, recipe: Recipe, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        splits = []
        for split in Fold._fields:
            table = needed(
                folder / "data" / f"{split}_data.csv", "fluent_speech_commands_dataset.tar.gz"
            )
            with table.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            missing = {"path", *SLOTS} - set(rows[0] if rows else ())
            if missing:
                raise ValueError(f"{table}: no column {min(missing)!r}; unpack the archive again")
            splits.append(
                [
                    Utterance(row["path"], folder / row["path"], tuple(row[x] for x in SLOTS))
                    for row in rows
                ]
            )
        self.folds = [Fold(*splits)]


class EmotionRecognition(PooledTask):
    """IEMOCAP, four emotions ("excited" counts as happy): each session tests once.

    A fifth of the other sessions validates.
    """

    def __init__(self, folder: Path, recipe: Recipe, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        count = int(recipe.options["sessions"])
        sessions = [
            self._session(needed(folder / f"Session{i}", "IEMOCAP_full_release.tar.gz"))
            for i in range(1, count + 1)
        ]
        self.folds = []
        for number, test in enumerate(sessions):
            others = [u for i, session in enumerate(sessions) if i != number for u in session]
            # s3prl splits with torch's random_split after manual_seed(0).
            order = torch.randperm(len(others), generator=torch.Generator().manual_seed(0)).tolist()
            kept = int((1 - float(recipe.options["valid_share"])) * len(others))
            train, valid = ([others[i] for i in rows] for rows in (order[:kept], order[kept:]))
            self.folds.append(Fold(train, valid, test))

    def _session(self, root: Path) -> list[Utterance]:
        paths = {path.stem: path for path in sorted(root.glob("sentences/wav/*/*.wav"))}
        found = []
        for table in sorted(root.glob("dialog/EmoEvaluation/[!.]*.txt")):
            for line in table.read_text(encoding="utf-8", errors="replace").splitlines():
                fields = line.split("\t")
                if not line.startswith("[") or len(fields) < 3 or fields[2] not in EMOTIONS:
                    continue
                if fields[1] in paths:
                    found.append(Utterance(fields[1], paths[fields[1]], (EMOTIONS[fields[2]],)))
        if not found:
            raise ValueError(
                f"{root} has no labelled sentence; expected dialog/EmoEvaluation/*.txt and "
                "sentences/wav/*/*.wav"
            )
        return found


class SpeakerIdentification(PooledTask):
    """VoxCeleb1's identification split.

    Training clips are cut to 8 s at random once (s3prl: anew each time).
    """

    def __init__(self, folder: Path, recipe: Recipe, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        table = needed(folder / "iden_split.txt", "VoxCeleb1's identification split")
        paths = voxceleb_files(folder)
        splits: dict[str, list[Utterance]] = {"1": [], "2": [], "3": []}
        for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1):
            split, _, name = line.strip().partition(" ")
            if split not in splits:
                raise ValueError(f"{table}, line {number}: {line!r} is not SPLIT FILE with 1, 2, 3")
            if name in paths:
                cut = float(recipe.options["max_train_sec"]) if split == "1" else None
                speaker = (name.split("/")[0],)
                splits[split].append(Utterance(name, paths[name], speaker, max_sec=cut))
        self.folds = [Fold(*splits.values())]
        _check_splits(folder, self.folds[0])


def voxceleb_files(folder: Path) -> dict[str, Path]:
    """Files by SPEAKER/VIDEO/CLIP.wav, below ``dev/wav`` and ``test/wav``.

    Raises:
        ValueError: there are none.
    """
    found = {"/".join(path.parts[-3:]): path for path in sorted(folder.glob("*/wav/*/*/*.wav"))}
    if not found:
        raise ValueError(
            f"{folder} has no dev/wav/ID/VIDEO/CLIP.wav; unpack vox1_dev_wav.zip into dev and "
            "vox1_test_wav.zip into test"
        )
    return found


def _word(path: Path) -> Utterance:
    known = (*KEYWORDS, SILENCE)
    label = path.parent.name if path.parent.name in known else UNKNOWN
    return Utterance(str(path.relative_to(path.parents[2])), path, (label,))


def _split_of(name: str) -> str:
    """By the speaker, as the corpus' README says; a tenth is what its own test set was."""
    speaker = re.sub(r"_nohash_.*$", "", name)
    number = int(hashlib.sha1(speaker.encode(), usedforsecurity=False).hexdigest(), 16)
    percent = number % (MAX_PER_CLASS + 1) * (100.0 / MAX_PER_CLASS)
    return "valid" if percent < 10 else "left out" if percent < 20 else "train"


def _check_splits(folder: Path, fold: Fold) -> None:
    for name, split in fold._asdict().items():
        if not split:
            raise ValueError(f"{folder} has no file of split {name!r}; unpack the archive again")
