from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_audio.probes.hear.protocol import Embeddings, Problem, data_splits, joined, run_rotations
from ssl_audio.probes.hear.scoring import EventScorer, FileFrames, SceneScorer, score_names
from ssl_audio.probes.metrics.events import Event

TIMES = np.arange(50) * 20.0


def event_scorer(names=("event_onset_200ms_fms", "segment_1s_er"), whole_last_frame=False):
    files = [FileFrames("a", 0, 50, TIMES), FileFrames("b", 50, 100, TIMES)]
    events = {"a": [Event("x", 100.0, 400.0)], "b": [Event("y", 200.0, 900.0)]}
    grid = {"median_filter_ms": [0.0], "min_duration": [0.0, 500.0]}
    return EventScorer(names, files, events, ("x", "y"), grid, whole_last_frame=whole_last_frame)


def perfect():
    probabilities = np.zeros((100, 2), dtype=np.float32)
    probabilities[5:21, 0] = 1
    probabilities[60:96, 1] = 1
    return probabilities


def test_validation_chooses_the_post_processing():
    score, choice = event_scorer().best(perfect())
    assert score == 1.0
    assert choice == {"median_filter_ms": 0.0, "min_duration": 0.0}
    assert event_scorer().all(perfect(), choice) == {
        "event_onset_200ms_fms": 1.0,
        "segment_1s_er": 0.0,
    }
    assert event_scorer().all(perfect(), choice | {"min_duration": 500.0})[
        "event_onset_200ms_fms"
    ] == pytest.approx(2 / 3)


def test_of_equal_post_processings_the_larger_values_are_kept():
    longer = perfect()
    longer[5:45, 0] = 1  # now both events last longer than 500 ms
    score, choice = event_scorer().best(longer)
    assert score == 1.0
    assert choice == {"median_filter_ms": 0.0, "min_duration": 500.0}


def test_nothing_predicted_scores_zero():
    scores = event_scorer().all(np.zeros((100, 2)), {"median_filter_ms": 0.0, "min_duration": 0.0})
    assert scores == {"event_onset_200ms_fms": 0.0, "segment_1s_er": 1.0}


def test_a_lower_error_rate_is_better():
    scorer = event_scorer(("segment_1s_er",))
    assert scorer.best(perfect())[0] == 0.0
    assert scorer.best(np.zeros((100, 2)))[0] == -1.0


def test_ours_ends_events_behind_their_last_frame():
    choice = {"median_filter_ms": 0.0, "min_duration": 0.0}
    for whole, end in ((False, 400.0), (True, 420.0)):
        scorer = event_scorer(whole_last_frame=whole)
        (event,) = scorer._events(scorer.files[0], perfect(), choice)
        assert event == Event("x", 100.0, end)


def test_files_drawn_twice_count_twice():
    scorer = event_scorer()
    resampled = scorer.resampled(np.random.default_rng(0))
    assert len(resampled.files) == 2
    assert {file.name for file in resampled.files} == set(resampled.events)
    assert resampled.best(perfect())[0] == 1.0


def test_scene_scores_that_have_no_value_are_worst():
    targets = np.array([[1, 0], [1, 0]])  # a class is absent
    scorer = SceneScorer(["aucroc", "top1_acc"], targets)
    scores = np.array([[0.9, 0.1], [0.8, 0.2]])
    assert scorer.best(scores)[0] == -np.inf
    assert scorer.all(scores, {})["top1_acc"] == 1.0


def test_unknown_scores_are_one_line():
    with pytest.raises(ValueError, match="unknown score 'wer'; scene scores: top1_acc"):
        score_names(["wer"], "scene")
    with pytest.raises(ValueError, match="no score; event scores"):
        score_names([], "event")


@pytest.mark.parametrize(
    ("folds", "mode", "message"),
    [
        (["train", "test"], "trainvaltest", "split 'valid' is missing"),
        (["fold00", "fold01"], "presplit_kfold", "2 folds; at least three"),
        (["a"], "random", "split_mode 'random'"),
    ],
)
def test_impossible_splits_are_one_line(folds, mode, message):
    with pytest.raises(ValueError, match=message):
        data_splits(folds, mode)


def scenes(labels, seed=0, dim=4):
    rng = np.random.default_rng(seed)
    targets = np.eye(3, dtype=np.uint8)[labels]
    x = 2.0 * targets @ np.ones((3, dim)).cumsum(0) + rng.standard_normal((len(labels), dim))
    return Embeddings(torch.tensor(x, dtype=torch.float32), targets)


PROBLEM = Problem(("a", "b", "c"), ("top1_acc",), multilabel=False)


@pytest.mark.parametrize(
    ("split", "data", "message"),
    [
        ("train", scenes([1, 1, 1]), "split 'train' has only one class, 'b'"),
        (
            "valid",
            Embeddings(torch.zeros(0, 4), np.zeros((0, 3), np.uint8)),
            "split 'valid' has no usable",
        ),
        (
            "test",
            Embeddings(torch.full((1, 4), torch.nan), np.eye(3, dtype=np.uint8)[[0]]),
            "split 'test' hold NaN",
        ),
    ],
)
def test_data_that_cannot_be_trained_on_are_one_line(split, data, message):
    splits = {name: scenes([0, 1, 2]) for name in ("train", "valid", "test")} | {split: data}
    rotations = data_splits(list(splits), "trainvaltest")
    with pytest.raises(ValueError, match=message):
        run_rotations(PROBLEM, splits, rotations, protocol="ours")


def test_an_unknown_protocol_is_one_line():
    with pytest.raises(ValueError, match="unknown protocol 'mine'; use ours or heareval"):
        run_rotations(PROBLEM, {}, [], protocol="mine")


def test_joined_folds_shift_their_files():
    part = Embeddings(
        torch.zeros(50, 2),
        np.zeros((50, 2), np.uint8),
        (FileFrames("a", 0, 50, TIMES),),
        {"a": ()},
    )
    other = Embeddings(
        torch.ones(50, 2),
        np.zeros((50, 2), np.uint8),
        (FileFrames("b", 0, 50, TIMES),),
        {"b": ()},
    )
    both = joined([part, other])
    assert [(file.name, file.start, file.stop) for file in both.files] == [
        ("a", 0, 50),
        ("b", 50, 100),
    ]
    assert set(both.events) == {"a", "b"}
    assert both.x.shape == (100, 2)
