from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from ssl_audio.batch import AUDIO, SPEECH
from ssl_audio.data.plan import BatchPlan, PlannedSample

RNG = np.random.default_rng(1)
DURATIONS = RNG.uniform(0.5, 10.0, 300)
DOMAINS = RNG.integers(0, 2, 300)


def make_plan(**settings):
    settings = {"batch_sec": 40.0, "num_buckets": 6, "seed": 3} | settings
    return BatchPlan(DURATIONS, DOMAINS, **settings)


def epoch_of(plan, epoch):
    first = epoch * plan.batches_per_epoch
    return [plan.batch(m) for m in range(first, first + plan.batches_per_epoch)]


def padded_sec(batch):
    return len(batch) * max(DURATIONS[sample.segment] for sample in batch)


def test_an_epoch_draws_every_segment_once_and_the_next_in_another_order():
    plan = make_plan()
    epochs = [[s.segment for batch in epoch_of(plan, e) for s in batch] for e in range(3)]
    assert all(sorted(epoch) == list(range(300)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("batch_sec", [10.0, 25.0, 100.0])
@pytest.mark.parametrize("num_buckets", [1, 4, 30])
def test_no_batch_exceeds_the_budget_and_buckets_waste_little(batch_sec, num_buckets):
    plan = make_plan(batch_sec=batch_sec, num_buckets=num_buckets)
    batches = epoch_of(plan, 0)
    assert max(padded_sec(batch) for batch in batches) <= batch_sec
    least = {1: 0.5, 4: 0.75, 30: 0.85 if batch_sec < 100.0 else 0.75}[num_buckets]
    assert DURATIONS.sum() / sum(map(padded_sec, batches)) > least


def test_any_batch_is_the_same_whatever_was_asked_before():
    straight = [make_plan().batch(m) for m in range(200)]
    plan = make_plan()
    for m in np.random.default_rng(0).permutation(200):
        assert plan.batch(int(m)) == straight[m]


def test_a_far_batch_needs_no_replay():
    assert make_plan().batch(10**9)


def test_sample_indices_never_repeat():
    plan = make_plan(weights={"speech": 1.0, "audio": 1.7})
    indices = [s.sample_index for e in range(4) for batch in epoch_of(plan, e) for s in batch]
    assert sorted(indices) == list(range(4 * plan.draws_per_epoch))


def test_seed_decides():
    assert epoch_of(make_plan(seed=4), 0) != epoch_of(make_plan(seed=5), 0)


def test_weights_are_passes_spread_evenly_over_the_segments():
    plan = make_plan(weights={"speech": 0.5, "audio": 2.25}, num_buckets=3)
    drawn = Counter(s.segment for e in range(8) for batch in epoch_of(plan, e) for s in batch)
    for domain, passes in ((SPEECH, 0.5), (AUDIO, 2.25)):
        counts = [drawn[i] for i, of_segment in enumerate(DOMAINS) if of_segment == domain]
        assert np.mean(counts) == pytest.approx(8 * passes, rel=0.05)
        assert max(counts) - min(counts) <= 2


def test_batches_mix_domains():
    mixed = [len({int(DOMAINS[s.segment]) for s in batch}) for batch in epoch_of(make_plan(), 0)]
    assert np.mean(mixed) > 1.8


def test_weight_zero_leaves_a_domain_out():
    plan = make_plan(weights={"audio": 0.0})
    drawn = {s.segment for batch in epoch_of(plan, 0) for s in batch}
    assert drawn == set(np.flatnonzero(DOMAINS == SPEECH))


def test_max_batch_and_a_subset_of_segments():
    plan = make_plan(max_batch=3, segments=np.arange(0, 300, 2))
    batches = epoch_of(plan, 0)
    assert max(map(len, batches)) == 3
    assert sorted(s.segment for batch in batches for s in batch) == list(range(0, 300, 2))


def test_tiny_data_gets_fewer_buckets():
    plan = BatchPlan(np.array([0.5, 1.0, 3.0]), np.zeros(3, int), batch_sec=20.0, num_buckets=20)
    assert plan.batches_per_epoch == 1
    assert {s.segment for s in plan.batch(7)} == {0, 1, 2}


def test_replacements_fit_the_bucket_and_are_a_function_of_the_draw():
    plan, again = make_plan(), make_plan()
    for batch in epoch_of(plan, 0):
        limit = padded_sec(batch) / len(batch)
        for sample in batch[:2]:
            chosen = [plan.replacement(sample, attempt) for attempt in range(10)]
            assert chosen == [again.replacement(sample, attempt) for attempt in range(10)]
            assert len(set(chosen)) > 3
            capacity = max(1, int(40.0 // limit))
            assert max(DURATIONS[chosen]) * min(capacity, len(batch)) <= 40.0 + 1e-9
    first, second = plan.batch(0)[0], PlannedSample(plan.batch(0)[0].segment, 10**6)
    assert [plan.replacement(first, a) for a in range(5)] != [
        plan.replacement(second, a) for a in range(5)
    ]


def test_durations_in_a_batch_are_similar():
    edges = []
    for batch in epoch_of(make_plan(num_buckets=8, batch_sec=30.0), 0):
        seconds = [DURATIONS[s.segment] for s in batch]
        edges.append((min(seconds), max(seconds)))
    assert sum(high - low > 3.0 for low, high in edges) <= 0.2 * len(edges)
    assert any(a != b for a, b in pairwise(edges))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_sec": 5.0}, r"segment of 9\.\d+ s does not fit data\.batch_sec=5\.0"),
        ({"weights": {"speech": 0, "audio": 0}}, "nothing to draw"),
        ({"weights": {"music": 1}}, "data.weights"),
        ({"weights": {"speech": -1}}, "data.weights"),
        ({"seed": -1}, "seed=-1"),
        ({"num_buckets": 0}, "num_buckets=0"),
        ({"max_batch": 0}, "max_batch=0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        make_plan(**settings)
