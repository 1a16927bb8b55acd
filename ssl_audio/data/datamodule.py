"""The data of a run for Lightning: planned training batches and a held-out split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from ssl_audio.batch import AudioBatch
from ssl_audio.data.dataset import SegmentDataset, already_collated
from ssl_audio.data.plan import BatchPlan, Plan, PlannedSample
from ssl_audio.data.samplers import EpochSampler, TrainSampler, share_among_ranks
from ssl_audio.data.segments import CROPS, DOMAINS, cut_segments
from ssl_audio.data.source import Source
from ssl_audio.data.split import TEST, TRAIN, VALID, split_clips
from ssl_audio.data.token_store import TokenStore

SPLITS = (TRAIN, VALID, "all")  # "all" is both; clips tagged "test" are in none


class DataModule(LightningDataModule):
    """Batches of a source for training, validation and extraction.

    Training is endless: give the Trainer ``max_steps`` and ``use_distributed_sampler=False``. The
    only state is the number of micro-batches trained, over all ranks: the k-th batch of rank r from
    there is ``plan.batch(trained + k * world_size + r)``. So a resumed run sees what the
    uninterrupted one sees, for any number of workers and accumulation steps, and may go on with
    other ranks. (A loader's own state would not do: Lightning gives every rank that of rank 0.)

    Args:
        source: where the audio comes from.
        batch_sec: most seconds of padded audio in a micro-batch.
        num_buckets, max_batch, weights: see ``BatchPlan``.
        seed: of order and crops.
        min_sec: shorter clips are dropped and counted in ``segments.num_short_clips``.
        max_sec: longer clips are cut; one number, or one each for speech and audio.
        crop: "segments" cuts at fixed places, which stored tokens need; "random" takes as many
            pieces, each from a place that is a function of the seed and the sample index.
        valid_fraction: share of clips held out when the source has no split of its own.
        valid_max_sec: most seconds held out.
        num_workers: loader processes; 0 loads in the training process.
        multiprocessing_context: "fork", "spawn" or "forkserver" for them.
        persistent_workers: keep them from one validation to the next.
        max_bad_fraction: give up when more of the recent clips cannot be read.
        token_stores: stored tokens by teacher name (``AudioBatch.codes``).

    Raises:
        ValueError: settings that the data cannot satisfy.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_sec: float,
        num_buckets: int = 20,
        max_batch: int | None = None,
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
        min_sec: float = 1.0,
        max_sec: float | Mapping[str, float] = 10.0,
        crop: str = "segments",
        valid_fraction: float = 0.02,
        valid_max_sec: float = 1800.0,
        num_workers: int = 0,
        multiprocessing_context: str | None = None,
        persistent_workers: bool = False,
        max_bad_fraction: float = 0.5,
        token_stores: Mapping[str, TokenStore] | None = None,
    ) -> None:
        super().__init__()
        if crop not in CROPS:
            raise ValueError(f"data.crop={crop!r}; use one of {', '.join(CROPS)}")
        self.source = source
        self.seed = seed
        self.batch_sec = batch_sec
        self.min_sec = min_sec
        self.crop = crop
        self.num_workers = num_workers
        self.multiprocessing_context = multiprocessing_context
        self.persistent_workers = persistent_workers
        self.max_bad_fraction = max_bad_fraction
        self.segments = cut_segments(source.clips, min_sec=min_sec, max_sec=max_sec)
        split = split_clips(
            source.clips, valid_fraction=valid_fraction, valid_max_sec=valid_max_sec
        )
        self._split = split[self.segments.clip]
        weights = {name: float((weights or {}).get(name, 1.0)) for name in DOMAINS}
        self._trained_domains = [name for name, weight in weights.items() if weight > 0]
        # What the order depends on; a checkpoint with another is refused.
        self._fingerprint: dict[str, Any] = {
            "seed": seed,
            "batch_sec": float(batch_sec),
            "num_buckets": num_buckets,
            "max_batch": max_batch,
            "weights": weights,
            "crop": crop,
            "segments": self.segments.fingerprint,
            "train_segments": len(self.segment_ids(TRAIN)),
        }
        self.plan = self._make_plan(self.segment_ids(TRAIN), batch_sec, weights)
        self._bad_segments = torch.zeros(len(self.segments), dtype=torch.uint8).share_memory_()
        self._trained_before = 0  # global micro-batches, before ``_loop`` started to count
        self._processed_before = 0  # micro-batches that ``_loop`` had counted on this rank by then
        self._loop: Any = None  # Lightning's training loop, while it runs
        self.token_stores: dict[str, TokenStore] = {}
        self.use_tokens(token_stores or {})

    # -- what there is ----------------------------------------------------------------------------

    def segment_ids(self, split: str, domains: Sequence[str] = tuple(DOMAINS)) -> np.ndarray:
        """Ids of the segments of "train", "valid" or "all" (both), of some domains, ascending."""
        assert split in SPLITS, split
        inside = self._split != TEST if split == "all" else self._split == split
        return np.flatnonzero(
            inside & np.isin(self.segments.domain, [DOMAINS[name] for name in domains])
        )

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of files the source refused and of segments that could not be decoded."""
        runtime = []
        for segment in self._bad_segments.nonzero().flatten().tolist():
            name = self.segments.name(segment, self.source.clips)
            runtime.append((name, f"{name}: could not be decoded, see the warnings above"))
        return [*self.source.skipped, *runtime]

    def use_tokens(self, token_stores: Mapping[str, TokenStore]) -> None:
        """Put stored tokens into the batches from now on.

        Raises:
            ValueError: random crops, or a store of other data.
        """
        if token_stores and self.crop != "segments":
            raise ValueError("stored tokens need data.crop=segments; or set tokens=online")
        for name, store in token_stores.items():
            if store.header.data != self.segments.fingerprint:
                raise ValueError(
                    f"the {name} tokens in {store.directory} were extracted from data "
                    f"{store.header.data}, this run has {self.segments.fingerprint}: extract again "
                    "or restore data.source, data.min_sec and data.max_sec"
                )
        self.token_stores = dict(token_stores)

    # -- training ---------------------------------------------------------------------------------

    @property
    def batches_trained(self) -> int:
        """Micro-batches of the plan that are trained, over all ranks."""
        if self._loop is None:
            return self._trained_before
        steps = self._loop.batch_progress.total.processed - self._processed_before
        return self._trained_before + steps * self._loop.trainer.world_size

    def train_dataloader(self) -> DataLoader[AudioBatch | None]:
        rank, num_ranks = self._rank()
        self._count_from(self.batches_trained)
        sampler = TrainSampler(self.plan, lambda: self.batches_trained, rank, num_ranks)
        return self._loader(sampler, self.plan)

    def state_dict(self) -> dict[str, Any]:
        """The same on every rank. Save between optimizer steps, as ModelCheckpoint does."""
        return {"batches_trained": self.batches_trained, "plan": self._fingerprint}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the micro-batches that the state counts.

        Raises:
            ValueError: the state belongs to another order of the data; both values are named.
        """
        saved = state_dict["plan"]
        differing = [
            f"{name}={saved.get(name)!r} (now {value!r})"
            for name, value in self._fingerprint.items()
            if saved.get(name) != value
        ]
        if differing:
            raise ValueError(
                f"the checkpoint was trained with data {', '.join(differing)}; restore the old "
                "values to resume, or start a new run"
            )
        self._loop = None
        self._trained_before = int(state_dict["batches_trained"])

    def teardown(self, stage: str) -> None:
        if stage == "fit":
            self._trained_before, self._loop = self.batches_trained, None

    def transfer_batch_to_device(
        self, batch: AudioBatch, device: torch.device, dataloader_idx: int
    ) -> AudioBatch:
        return batch.to(device, non_blocking=True)

    # -- validation and extraction ----------------------------------------------------------------

    def val_dataloader(self) -> DataLoader[AudioBatch | None] | list[Any]:
        """The held-out segments of the domains that are trained on, each once, the same number of
        batches on every rank."""
        ids = self.segment_ids(VALID, self._trained_domains)
        if not len(ids):
            return []
        plan = self._make_plan(ids, self.batch_sec)
        return self._loader(share_among_ranks(list(EpochSampler(plan)), *self._rank()), plan)

    def iter_batches(
        self,
        split: str,
        batch_sec: float | None = None,
        *,
        domains: Sequence[str] = tuple(DOMAINS),
        epoch: int = 0,
    ) -> Batches:
        """Every segment of a split once, in an order that depends on the seed and ``epoch`` only.

        Without a Trainer and the same on every rank; ``sample_index`` is the segment's id. Segments
        that cannot be decoded are left out.

        Args:
            split: "train", "valid" or "all", which is both.
            batch_sec: most padded seconds in a batch; by default as in training.
            domains: of the segments.
            epoch: another one gives another order.

        Raises:
            ValueError: no such segment, or one longer than ``batch_sec``.
        """
        ids = self.segment_ids(split, domains)
        if not len(ids):
            raise ValueError(
                f"no {' or '.join(domains)} segment in the {split} split; give the source such "
                "clips or choose an experiment without that domain"
            )
        plan = self._make_plan(ids, batch_sec or self.batch_sec)
        return Batches(self._loader(EpochSampler(plan, epoch), None))

    def load_segments(self, batches: Sequence[Sequence[int]]) -> DataLoader[AudioBatch | None]:
        """Loader of given batches of segment ids; ``None`` for a batch that cannot be decoded."""
        return self._loader([[PlannedSample(i, i) for i in batch] for batch in batches], None)

    # -- parts ------------------------------------------------------------------------------------

    def _make_plan(
        self, ids: np.ndarray, batch_sec: float, weights: Mapping[str, float] | None = None
    ) -> BatchPlan:
        return BatchPlan(
            self.segments.duration_sec,
            self.segments.domain,
            batch_sec=batch_sec,
            num_buckets=self._fingerprint["num_buckets"],
            max_batch=self._fingerprint["max_batch"],
            weights=weights,
            seed=self.seed,
            segments=ids,
        )

    def _loader(
        self, sampler: Iterable[list[PlannedSample]], replacements: Plan | None
    ) -> DataLoader[AudioBatch | None]:
        dataset = SegmentDataset(
            self.source,
            self.segments,
            seed=self.seed,
            random_crops=self.crop == "random",
            replacement=replacements.replacement if replacements else None,
            max_bad_fraction=self.max_bad_fraction,
            stores=self.token_stores,
            bad_segments=self._bad_segments,
        )
        workers = self.num_workers > 0
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=already_collated,
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context=self.multiprocessing_context if workers else None,
            persistent_workers=self.persistent_workers and workers,
            generator=torch.Generator(),  # else making an iterator would draw from the global one
        )

    def _count_from(self, trained: int) -> None:
        """Count what Lightning processes from here on top of ``trained``."""
        self._trained_before = trained
        self._loop = self.trainer.fit_loop.epoch_loop if self.trainer else None
        if self._loop is not None:
            self._processed_before = self._loop.batch_progress.total.processed

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


class Batches:
    """Batches that can be decoded; ``len`` counts those that cannot, too."""

    def __init__(self, loader: DataLoader[AudioBatch | None]) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[AudioBatch]:
        return (batch for batch in self._loader if batch is not None)
