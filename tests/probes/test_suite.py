from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from ssl_audio.probes.suite import (
    Example,
    ProbeTask,
    limit_clips,
    limit_examples,
    most_frequent_labels,
)

EXAMPLES = [Example(f"c{i}", label) for i, label in enumerate("aaaaaaaabbbbcc")]


def test_limit_serves_classes_in_turn_and_is_reproducible():
    kept = limit_clips(EXAMPLES, 6, "seed")
    assert Counter(e.label for e in kept) == {"a": 2, "b": 2, "c": 2}
    assert kept == limit_clips(EXAMPLES, 6, "seed")
    assert kept == sorted(kept, key=EXAMPLES.index)
    assert kept != limit_clips(EXAMPLES, 6, "another seed")


def test_limit_goes_on_with_other_classes_when_one_is_used_up():
    assert Counter(e.label for e in limit_clips(EXAMPLES, 11, "s")) == {"a": 5, "b": 4, "c": 2}
    assert limit_clips(EXAMPLES, None, "s") == EXAMPLES
    assert limit_clips(EXAMPLES, 100, "s") == EXAMPLES


def test_limit_keeps_all_segments_of_a_kept_clip():
    segments = [Example(f"c{i // 3}", "xyz"[i % 3], i, i + 1.0) for i in range(30)]
    kept = limit_clips(segments, 4, "s")
    assert set(Counter(e.clip for e in kept).values()) == {3}
    assert len(kept) == 12


def test_limit_examples_keeps_order():
    kept = limit_examples(EXAMPLES, 5, "s")
    assert len(kept) == 5
    assert kept == sorted(kept, key=EXAMPLES.index)


def test_most_frequent_labels_breaks_ties_by_name():
    assert most_frequent_labels([Example("c", x) for x in "ddbbaac"], 2) == {"a", "b"}


def test_spans_are_shared_between_tasks(tone_suite):
    twice = replace(tone_suite, tasks=(*tone_suite.tasks, tone_suite.tasks[0]))
    assert twice.spans() == tone_suite.spans()
    assert sorted(twice.spans().values()) == list(range(len(twice.spans())))


def test_fingerprint_follows_labels_and_splits(tone_suite, make_suite):
    assert make_suite(seed=5).fingerprint() == tone_suite.fingerprint()  # samples do not count
    assert make_suite((31, 12, 18)).fingerprint() != tone_suite.fingerprint()
    task = tone_suite.tasks[0]
    swapped = {**task.examples, "valid": task.examples["test"], "test": task.examples["valid"]}
    other = replace(tone_suite, tasks=(replace(task, examples=swapped), *tone_suite.tasks[1:]))
    assert other.fingerprint() != tone_suite.fingerprint()


def test_unknown_task_names_the_known_ones(tone_suite):
    assert [task.name for task in tone_suite.only(["loud"]).tasks] == ["loud"]
    with pytest.raises(ValueError, match="no task 'pitch'; tasks: tone, half, loud"):
        tone_suite.only(["pitch"])


@pytest.mark.parametrize(
    ("examples", "problem"),
    [
        ({"train": (), "valid": (), "test": ()}, "no examples in split 'train'"),
        (
            {s: (Example("c", "x"),) for s in ("train", "valid", "test")},
            "split 'train' has only one class, 'x'",
        ),
    ],
)
def test_problem_of_a_degenerate_task(examples, problem):
    assert ProbeTask("t", "clip", examples).problem == problem
