"""Tasks whose head reads frames: trained live, all learning rates on the same encoder passes.

Axes: B clips, S samples, T frames, D channels.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from ssl_audio import audio
from ssl_audio.probes.metrics.classification import ratio_interval
from ssl_audio.probes.recordings import Recording, Window, read_windows
from ssl_audio.probes.superb.layers import LayerStack
from ssl_audio.probes.superb.task import Settings, SuperbTask, TaskResult, Utterance
from ssl_audio.rng import sample_generator


@dataclass(frozen=True, slots=True)
class Batch:
    """Utterances with ``waveforms`` (B, S) as they were read and ``lengths`` (B,); on the CPU."""

    utterances: tuple[Utterance, ...]
    waveforms: Tensor
    lengths: Tensor


class FrameTask(SuperbTask):
    """A head over frames, chosen among learning rates and validations.

    Subclasses set ``recipe``, ``splits`` and ``seed`` when they are made, and say what the head is,
    what it learns and how an utterance counts.

    Attributes:
        selects_on_test: s3prl does for this task; with protocol "compat" we do too.
        splits: "train", "valid" and "test" utterances; ids are unique within a split.
    """

    selects_on_test: ClassVar[bool] = False
    splits: Mapping[str, Sequence[Utterance]]

    @property
    def criterion(self) -> tuple[str, int]:
        """Score that chooses heads by validation, and the sign that makes more of it better."""
        return self.metric, 1 if self.higher_is_better else -1

    @abstractmethod
    def head(self, dim: int, frame_rate: float) -> nn.Module:
        """Module from (B, T, ``dim``) and valid frames (B,) to outputs and their lengths (B,).

        In training mode it may drop out or mask; its weights come from torch's generator.
        """

    @abstractmethod
    def loss(self, head: nn.Module, outputs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
        """Mean over the utterances of the batch."""

    @abstractmethod
    def predict(self, outputs: Tensor, lengths: Tensor, batch: Batch) -> list[Any]:
        """One prediction for each utterance, on the CPU; ``outputs`` are those of evaluation."""

    def counts(
        self, utterance: Utterance, prediction: Any, tuned: Any
    ) -> dict[str, tuple[float, float]]:
        """What an utterance adds to every score: (numerator, denominator).

        A score is the ratio of the sums: errors and words, hits and 1, decibels and 1. Here the
        accuracy of predictions that are targets.
        """
        return {self.metric: (float(prediction == utterance.target), 1.0)}

    def tune(self, split: str, predictions: Mapping[str, Any]) -> Any:
        """What predictions of ``split`` choose beyond the head, e.g. a threshold; plain values."""
        return None

    def evaluate(
        self, split: str, predictions: Mapping[str, Any], tuned: Any
    ) -> tuple[dict[str, float], tuple[float, float]]:
        """Scores by name and the 95 % interval of the primary one.

        Args:
            split: of the predictions.
            predictions: by utterance id; files that cannot be read are absent.
            tuned: what ``tune`` chose.
        """
        counted = [
            self.counts(utterance, predictions[utterance.id], tuned)
            for utterance in self.splits[split]
            if utterance.id in predictions
        ]
        sums = {name: np.array([row[name] for row in counted]) for name in counted[0]}
        totals = {name: x.sum(0) for name, x in sums.items()}
        scores = {name: float(a / b) if b else math.nan for name, (a, b) in totals.items()}
        return scores, ratio_interval(*sums[self.metric].T, seed=self.seed)

    def read(self, utterance: Utterance, rng: np.random.Generator | None) -> np.ndarray:
        """(S,) samples; in training ``rng`` draws the crop of what is longer than ``max_sec``."""
        samples = audio.read(utterance.path, utterance.start_sec, utterance.duration_sec)
        return samples if rng is None else random_crop(samples, utterance.max_sec, rng)

    def train_batches(self, epoch: int) -> Sequence[Sequence[int]]:
        """Indices of training utterances, batch after batch; deterministic in (seed, epoch)."""
        rng = sample_generator(self.seed, "superb_order", epoch)
        order = rng.permutation(len(self.splits["train"])).tolist()
        return list(_chunks(order, self.recipe.batch_size))

    def run(self, layers: LayerStack, settings: Settings) -> TaskResult:
        from ssl_audio.probes.superb.training import train_and_test

        return train_and_test(self, layers, settings)

    def training_stream(self, first: int) -> Iterator[tuple[Batch | None, list[str]]]:
        """Batches without end from number ``first`` on, None where no file of one can be read."""
        utterances = self.splits["train"]
        position = 0
        for epoch in count():
            batches = self.train_batches(epoch)
            position += len(batches)
            if position <= first:
                continue
            batches = batches[max(0, first - position + len(batches)) :]
            wanted = [[utterances[index] for index in batch] for batch in batches]
            start = position - len(batches)
            yield from self._read(wanted, start)

    def evaluation_stream(self, split: str) -> Iterator[tuple[Batch | None, list[str]]]:
        """The split once, in its order."""
        return self._read(list(_chunks(self.splits[split], self.recipe.batch_size)), None)

    def _read(
        self, batches: Sequence[Sequence[Utterance]], first: int | None
    ) -> Iterator[tuple[Batch | None, list[str]]]:
        """Batches, and a line for each file that failed.

        ``first`` numbers the batches of training, whose crops depend on it; None is evaluation.
        """
        recordings: list[Recording] = []
        groups: list[list[Window]] = []
        for number, batch in enumerate(batches):
            groups.append([Window(len(recordings) + i, 0.0, None) for i in range(len(batch))])
            for row, utterance in enumerate(batch):
                rng = None if first is None else self._crop_generator(first + number, row)
                read = partial(_read_whole, self, utterance, rng)
                recordings.append(Recording(utterance.id, 0.0, read))
        everyone = [utterance for batch in batches for utterance in batch]
        for found in read_windows(recordings, groups):
            failures = [line for _, line in found.failures]
            if not found.windows:
                yield None, failures
                continue
            kept = tuple(everyone[window.recording] for window in found.windows)
            yield Batch(kept, found.waveforms, found.lengths), failures

    def _crop_generator(self, batch: int, row: int) -> np.random.Generator:
        return sample_generator(self.seed, f"superb_crop_{row}", batch)


def random_crop(samples: np.ndarray, max_sec: float | None, rng: np.random.Generator) -> np.ndarray:
    """``max_sec`` seconds of (S,) samples from a uniform start; all of what is no longer."""
    longest = len(samples) if max_sec is None else round(max_sec * audio.SAMPLE_RATE_HZ)
    start = int(rng.integers(max(0, len(samples) - longest) + 1))
    return samples[start : start + longest]


def _read_whole(
    task: FrameTask,
    utterance: Utterance,
    rng: np.random.Generator | None,
    start_sec: float,
    duration_sec: float | None,
) -> np.ndarray:
    """In the form that ``read_windows`` calls."""
    return task.read(utterance, rng)


def _chunks(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))
