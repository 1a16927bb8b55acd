"""PR, ASR, OOD-ASR and SF: connectionist temporal classification on frames.

SUPERB (arXiv:2105.01051), SUPERB-SG (arXiv:2203.06849), s3prl ec8064b ``downstream/{ctc,asr}``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from ssl_audio import audio
from ssl_audio.probes.metrics.error_rates import edit_distance
from ssl_audio.probes.metrics.slot_filling import slot_type_f1, value_pairs
from ssl_audio.probes.superb import transcripts
from ssl_audio.probes.superb.augmentation import SpecAugmented
from ssl_audio.probes.superb.beam import BeamSearch, flashlight_is_there
from ssl_audio.probes.superb.frame_task import Batch, FrameTask
from ssl_audio.probes.superb.layers import LayerStack
from ssl_audio.probes.superb.recurrent import FrameLinear, RecurrentTranscriber
from ssl_audio.probes.superb.task import Recipe, Settings, TaskResult, Utterance
from ssl_audio.probes.superb.transcripts import Transcribed
from ssl_audio.probes.superb.vocabulary import (
    BLANK,
    LETTERS,
    PHONES,
    Vocabulary,
    greedy_texts,
)
from ssl_audio.rng import sample_generator

HALVED_SAMPLES = 300_000  # s3prl halves a batch whose first clip is longer
OOD_STRIDE = 320  # samples; OOD-ASR drops frames of faster encoders


@dataclass(frozen=True, slots=True)
class Decoded:
    """Most likely symbols, and the words of the beam search where one is asked for."""

    greedy: str
    beam: str | None = None


class TranscriptionTask(FrameTask):
    """A CTC head, greedy decoding, an error rate.

    Args:
        folder: of the corpus.
        recipe: with options ``lstm`` and ``spec_augment`` of the head.
        seed: of the order.
    """

    higher_is_better = False
    by_audio: ClassVar[bool] = False  # batches of similar audio instead of similar targets
    vocabulary: Vocabulary

    def __init__(self, folder: Path, recipe: Recipe, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        found = self.read_splits(folder)
        self.vocabulary = self.read_vocabulary(folder, found)
        self.splits = {name: split.utterances for name, split in found.items()}
        self.warnings = [line for split in found.values() for line in split.warnings]
        for name, utterances in self.splits.items():
            if not utterances:
                raise ValueError(
                    f"{folder}: no utterance of {name} can be used; {self.warnings[0]}"
                )

    @abstractmethod
    def read_splits(self, folder: Path) -> dict[str, Transcribed]:
        """Train, valid and test."""

    def read_vocabulary(self, folder: Path, splits: Mapping[str, Transcribed]) -> Vocabulary:
        return Vocabulary(LETTERS)

    def head(self, dim: int, frame_rate: float) -> nn.Module:
        options = self.recipe.options
        transcriber = RecurrentTranscriber(
            dim, len(self.vocabulary), **options["lstm"], **self.head_options(frame_rate)
        )
        return SpecAugmented(transcriber, **options["spec_augment"])

    def head_options(self, frame_rate: float) -> dict[str, Any]:
        """Of the transcriber, beyond the recipe's."""
        return {}

    def loss(self, head: nn.Module, outputs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
        targets = [self.vocabulary.encode(utterance.target) for utterance in batch.utterances]
        return functional.ctc_loss(
            outputs.float().log_softmax(-1).transpose(0, 1),
            pad_sequence(targets, batch_first=True).to(outputs.device),
            lengths,
            torch.tensor([len(target) for target in targets]),
            blank=BLANK,
            zero_infinity=True,
        )

    def predict(self, outputs: Tensor, lengths: Tensor, batch: Batch) -> list[Any]:
        return [Decoded(text) for text in greedy_texts(outputs, lengths, self.vocabulary)]

    def counts(
        self, utterance: Utterance, prediction: Any, tuned: Any
    ) -> dict[str, tuple[float, float]]:
        wanted = self.vocabulary.text(self.vocabulary.encode(utterance.target).tolist())
        counted = self.count_text(prediction.greedy, wanted)
        if prediction.beam is not None:
            counted["wer_lm"] = _errors(prediction.beam.split(" "), wanted.split(" "))
        return counted

    def count_text(self, found: str, wanted: str) -> dict[str, tuple[float, float]]:
        """Word errors (phone errors, where phones stand between the spaces) and characters."""
        return {
            "wer": _errors(found.split(" "), wanted.split(" ")),
            "cer": _errors(found, wanted),
        }

    def train_batches(self, epoch: int) -> list[Sequence[int]]:
        """Neighbours in the order of length, each batch from a random place on."""
        utterances, size = self.splits["train"], self.recipe.batch_size
        lengths = [_num_samples(u.path) if self.by_audio else len(u.target) for u in utterances]
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        rng = sample_generator(self.seed, "superb_order", epoch)
        starts = rng.permutation(len(order))[: -(-len(order) // size)]
        batches: list[Sequence[int]] = []
        for start in np.minimum(starts, max(0, len(order) - size)).tolist():
            batch = order[start : start + size]
            if len(batch) > 1 and _num_samples(utterances[batch[0]].path) > HALVED_SAMPLES:
                batch = batch[: len(batch) // 2]
            batches.append(batch)
        return batches

    def run(self, layers: LayerStack, settings: Settings) -> TaskResult:
        result = super().run(layers, settings)
        return TaskResult(result.folds, [*self.warnings, *result.warnings])


class PhonemeRecognition(TranscriptionTask):
    """LibriSpeech, phones with stress of the lexicon's first pronunciations."""

    metric = "per"

    def read_splits(self, folder: Path) -> dict[str, Transcribed]:
        texts = _librispeech(folder, self.recipe)
        names = [folder / name for name in self.recipe.options["lexicon"]]
        lexicon = transcripts.read_lexicon([path for path in names if path.is_file()])
        return {split: transcripts.phones(said, lexicon) for split, said in texts.items()}

    def read_vocabulary(self, folder: Path, splits: Mapping[str, Transcribed]) -> Vocabulary:
        return Vocabulary(PHONES, joiner=" ")

    def head(self, dim: int, frame_rate: float) -> nn.Module:
        return FrameLinear(dim, int(self.recipe.options["hidden"]), len(self.vocabulary))

    def count_text(self, found: str, wanted: str) -> dict[str, tuple[float, float]]:
        return {"per": _errors(found.split(" "), wanted.split(" "))}


class SpeechRecognition(TranscriptionTask):
    """LibriSpeech, characters.

    Where the n-gram and lexicon that the recipe's ``beam`` names lie in the folder, test is also
    scored after a beam search with them (``wer_lm``).
    """

    metric = "wer"
    by_audio = True

    def __init__(self, folder: Path, recipe: Recipe, seed: int) -> None:
        super().__init__(folder, recipe, seed)
        self.search = BeamSearch.of(recipe.options["beam"], folder)
        self.test_folder = folder / recipe.options["test"]
        if self.search is not None and not flashlight_is_there():
            self.warnings.append(
                f"{self.search.lm} is not used, flashlight-text is not installed; "
                "pip install 'ssl-audio[superb]'"
            )
            self.search = None

    def read_splits(self, folder: Path) -> dict[str, Transcribed]:
        texts = _librispeech(folder, self.recipe)
        return {split: transcripts.letters(said) for split, said in texts.items()}

    def predict(self, outputs: Tensor, lengths: Tensor, batch: Batch) -> list[Any]:
        greedy = super().predict(outputs, lengths, batch)
        if self.search is None or self.test_folder not in batch.utterances[0].path.parents:
            return greedy
        beams = self.search.texts(outputs, lengths, self.vocabulary)
        return [Decoded(one.greedy, text) for one, text in zip(greedy, beams, strict=True)]


class OutOfDomainRecognition(TranscriptionTask):
    """Common Voice in other languages, or prepared American conversations (SBCSAE)."""

    metric = "wer"
    by_audio = True

    def read_splits(self, folder: Path) -> dict[str, Transcribed]:
        options = self.recipe.options
        names = {"train": "train", "valid": "dev", "test": "test"}
        if "language" not in options:
            return {name: transcripts.read_prepared(folder, tsv) for name, tsv in names.items()}
        language, accent = options["language"], options.get("accent")
        return {
            name: transcripts.read_common_voice(folder, tsv, language, accent)
            for name, tsv in names.items()
        }

    def read_vocabulary(self, folder: Path, splits: Mapping[str, Transcribed]) -> Vocabulary:
        """The characters that training shows."""
        return Vocabulary(tuple(sorted({c for u in splits["train"].utterances for c in u.target})))

    def head_options(self, frame_rate: float) -> dict[str, Any]:
        stride = audio.SAMPLE_RATE_HZ / frame_rate
        return {"projections": True, "keep_every": max(1, round(OOD_STRIDE / stride))}


class OutOfDomainCharacters(OutOfDomainRecognition):
    """Languages that write no spaces."""

    metric = "cer"


class SlotFilling(TranscriptionTask):
    """Audio SNIPS: characters with tokens where slots open and close."""

    metric = "slot_type_f1"
    higher_is_better = True

    def read_splits(self, folder: Path) -> dict[str, Transcribed]:
        options = self.recipe.options
        return {
            split: transcripts.read_snips(folder, split, options[f"{split}_speakers"])
            for split in ("train", "valid", "test")
        }

    def read_vocabulary(self, folder: Path, splits: Mapping[str, Transcribed]) -> Vocabulary:
        return Vocabulary((*LETTERS, *transcripts.read_slots(folder)))

    def count_text(self, found: str, wanted: str) -> dict[str, tuple[float, float]]:
        pairs = value_pairs([found], [wanted])
        return {
            "slot_type_f1": (slot_type_f1([found], [wanted]), 1.0),
            "slot_value_cer": (
                float(sum(edit_distance(hyp, ref) for hyp, ref in pairs)),
                float(sum(len(ref) for _, ref in pairs)),
            ),
            **super().count_text(found, wanted),
        }


def _librispeech(folder: Path, recipe: Recipe) -> dict[str, dict[Path, str]]:
    return {
        split: transcripts.read_librispeech(folder, recipe.options[split])
        for split in ("train", "valid", "test")
    }


def _errors(found: Sequence[str], wanted: Sequence[str]) -> tuple[float, float]:
    return float(edit_distance(found, wanted)), float(len(wanted))


@cache
def _num_samples(path: Path) -> int:
    """Of the file; 0 if it cannot be read, which reading will report."""
    try:
        return audio.info(path).num_samples
    except audio.AudioError:
        return 0
