import logging

import numpy as np
import pytest
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from ssl_audio.data.dataset import BadDataError, SegmentDataset, already_collated
from ssl_audio.data.plan import BatchPlan, PlannedSample
from ssl_audio.data.segments import cut_segments


def make_dataset(source, replace=True, **settings):
    segments = cut_segments(source.clips, min_sec=0.05, max_sec=0.5)
    plan = BatchPlan(segments.duration_sec, segments.domain, batch_sec=2.0, num_buckets=3)
    replacement = plan.replacement if replace else None
    return plan, SegmentDataset(source, segments, seed=1, replacement=replacement, **settings)


def load(dataset, batches, num_workers=0):
    return list(
        DataLoader(
            dataset, batch_sampler=batches, collate_fn=already_collated, num_workers=num_workers
        )
    )


def test_a_batch_holds_what_was_planned(ramp_source):
    source = ramp_source(20)
    plan, dataset = make_dataset(source)
    planned = plan.batch(3)
    batch = dataset.__getitems__(planned)
    assert batch.sample_index.tolist() == [s.sample_index for s in planned]
    assert batch.ids == tuple(source.clips[s.segment].id for s in planned)
    assert batch.domains.tolist() == [s.segment % 2 for s in planned]
    assert batch.waveforms[:, 0].tolist() == [s.segment for s in planned]
    assert batch.lengths.tolist() == [source.clips[s.segment].num_samples for s in planned]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_clips_are_replaced_alike_everywhere_and_counted(ramp_source, num_workers, caplog):
    plan, dataset = make_dataset(ramp_source(20, bad=(3, 8)))
    batches = [plan.batch(m) for m in range(plan.batches_per_epoch)]
    with caplog.at_level(logging.WARNING):
        loaded = load(dataset, batches, num_workers)
    warnings = [r.message for r in caplog.records]
    _, reference = make_dataset(ramp_source(20, bad=(3, 8)))
    assert [batch.ids for batch in loaded] == [reference.__getitems__(b).ids for b in batches]
    assert [batch.sample_index.tolist() for batch in loaded] == [
        [s.sample_index for s in batch] for batch in batches
    ]
    assert not {"clip003", "clip008"} & {name for batch in loaded for name in batch.ids}
    assert dataset.bad_segments.nonzero().flatten().tolist() == [3, 8]
    if num_workers == 0:
        assert sorted(warnings) == [
            "skipped: clip003: broken; remove it",
            "skipped: clip008: broken; remove it",
        ]


def test_without_replacement_bad_clips_are_left_out(ramp_source):
    _, dataset = make_dataset(ramp_source(6, bad=(1, 2)), replace=False)
    batch, nothing = load(
        dataset, [[PlannedSample(i, i) for i in (0, 1, 4)], [PlannedSample(2, 2)]]
    )
    assert batch.ids == ("clip000", "clip004")
    assert nothing is None


def test_nothing_readable_ends_in_one_line_even_from_a_worker(ramp_source):
    plan, dataset = make_dataset(ramp_source(5, bad=range(5)))
    try:
        dataset.__getitems__(plan.batch(0))
    except BadDataError:  # what a loader does with an error in its worker
        from_worker = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(BadDataError) as caught:
        from_worker.reraise()
    assert str(caught.value).startswith("no replacement for 20 unreadable clips; last: clip00")
    assert str(caught.value).endswith(": broken; remove it")


def test_too_many_bad_clips_end_in_one_line(ramp_source):
    plan, dataset = make_dataset(ramp_source(50, bad=range(0, 50, 2)), max_bad_fraction=0.3)
    with pytest.raises(BadDataError, match=r"of the last 200 clips .* data\.max_bad_fraction=0\.3"):
        load(dataset, [plan.batch(m) for m in range(400)])


def test_random_crops_are_a_function_of_seed_and_sample_index(ramp_source):
    source = ramp_source(4)
    segments = cut_segments(source.clips, min_sec=0.05, max_sec=0.1)

    def crop(sample_index, seed=1):
        dataset = SegmentDataset(source, segments, seed=seed, random_crops=True)
        return dataset.__getitems__([PlannedSample(0, sample_index)]).waveforms[0].numpy()

    first = crop(5)
    assert len(first) == 1600
    assert np.array_equal(first, crop(5))
    starts = {float(crop(index)[0]) for index in range(20)}
    assert len(starts) > 15
    assert max(starts) * 1e6 + 1600 <= source.clips[0].num_samples
    assert not np.array_equal(first, crop(5, seed=2))
