"""Labelled clips for Lightning: training by class, validation and test once through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ssl_audio.batch import AudioBatch
from ssl_audio.data.datamodule import DataModule
from ssl_audio.data.labelled_plan import LabelledPlan
from ssl_audio.data.labelled_source import LabelledSource
from ssl_audio.data.samplers import EpochSampler, TrainSampler, share_among_ranks
from ssl_audio.data.split import TEST, TRAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledBatch(AudioBatch):
    """An ``AudioBatch`` with ``targets`` (B, C) float32, 1.0 where a clip has the label."""

    targets: Tensor


class LabelledDataModule(DataModule):
    """Fine-tuning data: as ``DataModule``, in batches of clips, every clip one example.

    Args:
        source: clips with labels.
        batch_size: clips in a training micro-batch.
        balanced: draw the classes equally often.
        batch_sec: most padded seconds in a batch of validation or test.
        max_sec: the source's limit.
        seed: of the order.
        num_workers: loader processes.

    Raises:
        ValueError: settings that the data cannot satisfy.
    """

    source: LabelledSource

    def __init__(
        self,
        source: LabelledSource,
        *,
        batch_size: int,
        balanced: bool,
        batch_sec: float,
        max_sec: float,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            source,
            batch_sec=max(batch_sec, max_sec),
            seed=seed,
            min_sec=1e-3,
            max_sec=max_sec,
            valid_fraction=0.0,
            num_workers=num_workers,
        )
        ids = self.segment_ids(TRAIN)
        self.train_plan = LabelledPlan(
            ids,
            source.targets[self.segments.clip[ids]],
            batch_size=batch_size,
            balanced=balanced,
            seed=seed,
        )
        self._fingerprint |= {
            "batch_size": batch_size,
            "balanced": balanced,
            "labels": list(source.labels),
        }
        self._row = {clip.id: row for row, clip in enumerate(source.clips)}
        self._targets = torch.from_numpy(source.targets)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the targets' columns."""
        return self.source.labels

    def train_dataloader(self) -> DataLoader[AudioBatch | None]:
        rank, num_ranks = self._rank()
        self._count_from(self.batches_trained)
        sampler = TrainSampler(self.train_plan, lambda: self.batches_trained, rank, num_ranks)
        return self._loader(sampler, self.train_plan)

    def test_dataloader(self) -> DataLoader[AudioBatch | None] | list[Any]:
        """The test segments, each once, the same number of batches on every rank."""
        ids = np.flatnonzero(self._split == TEST)
        plan = self._make_plan(ids, self.batch_sec)
        return self._loader(share_among_ranks(list(EpochSampler(plan)), *self._rank()), plan)

    def transfer_batch_to_device(
        self, batch: AudioBatch, device: torch.device, dataloader_idx: int
    ) -> LabelledBatch:
        batch = batch.to(device, non_blocking=True)
        targets = self._targets[[self._row[name] for name in batch.ids]]
        fields = {name: getattr(batch, name) for name in AudioBatch.__dataclass_fields__}
        return LabelledBatch(**fields, targets=targets.to(device, non_blocking=True))
