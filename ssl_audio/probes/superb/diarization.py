"""SD: who speaks when, two speakers at once (SUPERB, arXiv:2105.01051; s3prl ec8064b)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ssl_audio.probes.metrics.diarization import (
    SpeakerSegment,
    diarization_counts,
    permutation_invariant_loss,
    segment_errors,
    speaker_segments,
)
from ssl_audio.probes.superb.frame_task import Batch, FrameTask
from ssl_audio.probes.superb.layers import LayerStack
from ssl_audio.probes.superb.losses import activity_loss
from ssl_audio.probes.superb.mixtures import Turn, read_turns
from ssl_audio.probes.superb.recurrent import SpeakerActivity
from ssl_audio.probes.superb.task import ProtocolName, Recipe, Settings, TaskResult, Utterance

UNTUNED = (0.5, 1)  # threshold of activity, frames of the median filter


class SpeakerDiarization(FrameTask):
    """Error rate of segments on the Kaldi folders ``train``, ``dev`` and ``test``.

    Overlaps count, there is no collar. Valid chooses checkpoint, threshold and median filter; with
    protocol "compat" valid chooses the checkpoint by the accuracy of frames and test the other two,
    as in s3prl.
    """

    metric = "der"
    higher_is_better = False
    frame_rate: float  # of the layers, while it runs
    protocol: ProtocolName

    def __init__(self, folder: Path, recipe: Recipe, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        self.num_speakers = int(recipe.options["speakers"])
        chunk_sec = float(recipe.options["chunk_sec"])
        self.splits = {
            "train": read_turns(folder / "train", chunk_sec),
            "valid": read_turns(folder / "dev", chunk_sec),
            "test": read_turns(folder / "test"),
        }
        for utterance in (u for split in self.splits.values() for u in split):
            if any(turn.speaker >= self.num_speakers for turn in utterance.target):
                raise ValueError(
                    f"{folder}: {utterance.id} has more than {self.num_speakers} speakers; raise "
                    "the task's speakers"
                )

    def run(self, layers: LayerStack, settings: Settings) -> TaskResult:
        bound = copy.copy(self)
        bound.frame_rate, bound.protocol = layers.frame_rate, settings.protocol
        return FrameTask.run(bound, layers, settings)

    def head(self, dim: int, frame_rate: float) -> nn.Module:
        return SpeakerActivity(dim, int(self.recipe.options["hidden"]), self.num_speakers)

    def loss(self, head: nn.Module, outputs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
        labels = [
            torch.from_numpy(self._labels(utterance, length))
            for utterance, length in zip(batch.utterances, lengths.tolist(), strict=True)
        ]
        padded = pad_sequence(labels, batch_first=True).to(outputs.device)
        return activity_loss(outputs[:, : padded.shape[1]], padded, lengths)

    def predict(self, outputs: Tensor, lengths: Tensor, batch: Batch) -> list[Any]:
        """(T, S) probabilities."""
        rows = zip(outputs.sigmoid().cpu().numpy(), lengths.tolist(), strict=True)
        return [row[:length] for row, length in rows]

    @property
    def criterion(self) -> tuple[str, int]:
        return ("accuracy", 1) if self.protocol == "compat" else super().criterion

    def tune(self, split: str, predictions: Mapping[str, Any]) -> Any:
        if split == "valid" and self.protocol == "compat":
            return UNTUNED
        options = self.recipe.options
        choices = product(options["thresholds"], options["median_frames"])
        return min(choices, key=lambda choice: self._error_rate(split, predictions, choice))

    def evaluate(
        self, split: str, predictions: Mapping[str, Any], tuned: Any
    ) -> tuple[dict[str, float], tuple[float, float]]:
        if split == "test" and self.protocol == "compat":
            tuned = self.tune(split, predictions)
        return super().evaluate(split, predictions, tuned)

    def counts(
        self, utterance: Utterance, prediction: Any, tuned: Any
    ) -> dict[str, tuple[float, float]]:
        sure = np.clip(prediction, 1e-6, 1 - 1e-6)  # so that the logits are finite
        logits = np.log(sure / (1 - sure))[None]
        labels, length = self._labels(utterance, len(prediction))[None], [len(prediction)]
        _, order = permutation_invariant_loss(logits, labels, np.array(length))
        frames = diarization_counts(logits, labels[..., order[0]], np.array(length))
        return {
            "der": self._errors(utterance, prediction, tuned),
            "accuracy": (frames.correct, frames.num_frames),
        }

    def _errors(
        self, utterance: Utterance, prediction: np.ndarray, tuned: Any
    ) -> tuple[float, float]:
        """Seconds of errors and of speech."""
        threshold, median_frames = tuned
        system = speaker_segments(
            prediction,
            frame_sec=1 / self.frame_rate,
            threshold=threshold,
            median_frames=median_frames,
        )
        reference = [
            SpeakerSegment(turn.speaker, turn.start_sec, turn.stop_sec - turn.start_sec)
            for turn in utterance.target
        ]
        return segment_errors(reference, system, self.num_speakers)

    def _error_rate(self, split: str, predictions: Mapping[str, Any], choice: Any) -> float:
        rows = [
            self._errors(utterance, predictions[utterance.id], choice)
            for utterance in self.splits[split]
            if utterance.id in predictions
        ]
        errors, scored = map(sum, zip(*rows, strict=True))
        return errors / scored if scored else 0.0

    def _labels(self, utterance: Utterance, num_frames: int) -> np.ndarray:
        return frame_labels(utterance.target, num_frames, self.frame_rate, self.num_speakers)


def frame_labels(
    turns: Sequence[Turn], num_frames: int, frame_rate: float, num_speakers: int
) -> np.ndarray:
    """(T, S) bool: who speaks in each frame; turns are rounded to frames."""
    labels = np.zeros((num_frames, num_speakers), dtype=bool)
    for turn in turns:
        start, stop = round(turn.start_sec * frame_rate), round(turn.stop_sec * frame_rate)
        labels[start:stop, turn.speaker] = True
    return labels
