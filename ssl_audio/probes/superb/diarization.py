"""SD: who speaks when, two speakers at once (SUPERB, arXiv:2105.01051; s3prl ec8064b)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ssl_audio.probes.metrics.diarization import active_frames, diarization_counts
from ssl_audio.probes.superb.frame_task import Batch, FrameTask
from ssl_audio.probes.superb.layers import LayerStack
from ssl_audio.probes.superb.losses import activity_loss
from ssl_audio.probes.superb.mixtures import Turn, read_turns
from ssl_audio.probes.superb.recurrent import SpeakerActivity
from ssl_audio.probes.superb.task import ProtocolName, Recipe, Settings, TaskResult, Utterance

UNTUNED = (0.5, 1)  # threshold of activity, frames of the median filter


class SpeakerDiarization(FrameTask):
    """Frame error rate on the Kaldi folders ``train``, ``dev`` and ``test``.

    The encoder's frames are labelled and judged, overlaps included, without a collar; the table of
    SUPERB scores segments with an external tool instead. Valid chooses checkpoint, threshold and
    median filter; with protocol "compat" test chooses the last two, as in s3prl.
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
        threshold, median_frames = tuned
        labels = self._labels(utterance, len(prediction))[None]
        active = active_frames(prediction, threshold=threshold, median_frames=median_frames)
        logits = np.where(active, 1.0, -1.0)[None]
        speakers = range(self.num_speakers)
        found = (
            diarization_counts(logits, labels[..., list(order)], np.array([len(prediction)]))
            for order in permutations(speakers)
        )
        best = min(found, key=lambda c: c.speaker_miss + c.speaker_false_alarm + c.speaker_error)
        errors = best.speaker_miss + best.speaker_false_alarm + best.speaker_error
        return {
            "der": (errors, best.speaker_scored),
            "accuracy": (best.correct, best.num_frames),
        }

    def _error_rate(self, split: str, predictions: Mapping[str, Any], choice: Any) -> float:
        rows = [
            self.counts(utterance, predictions[utterance.id], choice)["der"]
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
