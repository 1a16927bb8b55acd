"""Batch samplers for ``torch.utils.data.DataLoader`` on top of a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch.utils.data import Sampler

from ssl_audio.data.plan import BatchPlan, Plan, PlannedSample


class TrainSampler(Sampler[list[PlannedSample]]):
    """This rank's micro-batches, endless: first + rank, then every ``num_ranks``-th.

    Args:
        plan: the order.
        first: global index of the first micro-batch not trained yet, asked anew by every ``iter``.
        rank, num_ranks: of the process.
    """

    def __init__(self, plan: Plan, first: Callable[[], int], rank: int, num_ranks: int) -> None:
        self.plan, self.first, self.rank, self.num_ranks = plan, first, rank, num_ranks

    def __iter__(self) -> Iterator[list[PlannedSample]]:
        return self._from(self.first() + self.rank)

    def _from(self, index: int) -> Iterator[list[PlannedSample]]:
        while True:
            yield self.plan.batch(index)
            index += self.num_ranks


class EpochSampler(Sampler[list[PlannedSample]]):
    """Every batch of one epoch once; ``sample_index`` is the segment's id, whatever the epoch."""

    def __init__(self, plan: BatchPlan, epoch: int = 0) -> None:
        self.plan, self.epoch = plan, epoch

    def __len__(self) -> int:
        return self.plan.batches_per_epoch

    def __iter__(self) -> Iterator[list[PlannedSample]]:
        first = self.epoch * len(self)
        for index in range(first, first + len(self)):
            yield [PlannedSample(s.segment, s.segment) for s in self.plan.batch(index)]


def share_among_ranks(
    batches: Sequence[list[PlannedSample]], rank: int, num_ranks: int
) -> list[list[PlannedSample]]:
    """This rank's part of ``batches``, the same number on every rank, each sample once.

    The largest batches are halved until the number divides; ranks that would wait for each other in
    vain otherwise hang. Only with fewer samples than ranks do some samples come twice.
    """
    batches = list(batches)
    while len(batches) % num_ranks:
        largest = max(range(len(batches)), key=lambda i: len(batches[i]))
        batch = batches[largest]
        half = len(batch) // 2
        batches[largest] = batch[half:]
        batches.append(batch[:half] or batch)
    return batches[rank::num_ranks]
