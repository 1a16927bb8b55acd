"""Resume, for every cut point, number of ranks before and after, and accumulation."""

from itertools import islice

import numpy as np
import pytest

from ssl_audio.data.plan import BatchPlan, PlannedSample
from ssl_audio.data.samplers import EpochSampler, TrainSampler, share_among_ranks

PLAN = BatchPlan(np.linspace(1, 5, 40), np.arange(40) % 2, batch_sec=20.0, num_buckets=3, seed=2)


def train(num_ranks, steps, accumulate, first=0):
    """Batches of ``steps`` optimizer steps in the order of their global index."""
    per_rank = [
        list(islice(TrainSampler(PLAN, lambda: first, rank, num_ranks), steps * accumulate))
        for rank in range(num_ranks)
    ]
    return [batch for together in zip(*per_rank, strict=True) for batch in together]


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("later_ranks", [1, 2, 4])
def test_before_the_cut_plus_after_it_is_the_uninterrupted_order(
    num_ranks, accumulate, later_ranks
):
    for cut in range(12):
        before = train(num_ranks, cut, accumulate)
        after = train(later_ranks, 8, accumulate, first=len(before))
        assert before + after == [PLAN.batch(m) for m in range(len(before) + len(after))]
    assert len(before) + len(after) > PLAN.batches_per_epoch


def test_every_iter_asks_where_to_go_on():
    trained = iter([0, 5])
    sampler = TrainSampler(PLAN, lambda: next(trained), 0, 1)
    assert next(iter(sampler)) == PLAN.batch(0)
    assert next(iter(sampler)) == PLAN.batch(5)


def test_an_epoch_has_segment_ids_as_sample_indices():
    for epoch in (0, 2):
        batches = list(EpochSampler(PLAN, epoch))
        assert len(batches) == len(EpochSampler(PLAN, epoch))
        assert sorted(s for batch in batches for s in batch) == [(i, i) for i in range(40)]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7, 16, 40])
def test_ranks_share_every_sample_once_in_equally_many_batches(num_ranks):
    shares = [
        share_among_ranks(list(EpochSampler(PLAN)), rank, num_ranks) for rank in range(num_ranks)
    ]
    assert len({len(share) for share in shares}) == 1
    samples = sorted(s.segment for share in shares for batch in share for s in batch)
    assert samples == list(range(40))
    assert all(batch for share in shares for batch in share)


def test_more_ranks_than_samples_repeat_some():
    shares = [share_among_ranks([[PlannedSample(0, 0)]], rank, 3) for rank in range(3)]
    assert shares == [[[PlannedSample(0, 0)]]] * 3
