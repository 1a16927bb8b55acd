from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_audio.probes.boundary_task import (
    BOUNDARY,
    boundary_task,
    count_hits,
    f1_interval,
    f1_score,
    peaks,
)
from ssl_audio.probes.classify import ProbeSettings, run_probe
from ssl_audio.probes.features import PooledFeatures
from ssl_audio.probes.suite import SPLITS, Example

SEGMENTS = [(0.11, 0.2), (0.2, 0.33)]


def task_of(clips=6):
    by_clip = {f"c{i}": SEGMENTS for i in range(clips)}
    return boundary_task("words", dict.fromkeys(SPLITS, by_clip))


def test_frames_between_the_first_and_the_last_boundary():
    task = task_of()
    assert task.name == "words_boundaries"
    frames = [e for e in task.examples["train"] if e.clip == "c0"]
    assert (frames[0].start_sec, frames[-1].end_sec) == (0.1, 0.34)
    assert [e.start_sec for e in frames if e.label == BOUNDARY] == [0.1, 0.2, 0.32]
    assert boundary_task("x", {"train": {"a": []}}).examples["train"] == ()


def test_only_some_clips_but_all_their_frames():
    task = task_of(clips=200)
    counts = {s: len({e.clip for e in task.examples[s]}) for s in SPLITS}
    assert counts == {"train": 60, "valid": 20, "test": 40}
    assert len(task.examples["test"]) == 40 * 12


def test_a_plateau_is_one_peak():
    values = np.array([0.9, 0.1, 0.6, 0.6, 0.2, 0.3, 0.8])
    assert peaks(values, 0.5).tolist() == [0, 2, 6]
    assert peaks(values, 0.95).tolist() == []
    assert peaks(np.ones(3), 0.5).tolist() == [0]


def test_peaks_are_matched_within_a_clip_one_to_one_and_one_frame_apart():
    labels = "b...b....b" + "...b"
    examples = [
        Example("xy"[i >= 10], BOUNDARY if label == "b" else "inside", 0.02 * i, 0.02 * (i + 1))
        for i, label in enumerate(labels)
    ]
    probabilities = np.array([0, 0.9, 0, 0, 0.8, 0, 0.7, 0, 0, 0, 0.9, 0, 0, 0])
    clips, counts = count_hits(probabilities, examples, 0.5)
    assert clips == ["x", "y"]
    assert counts.tolist() == [[2, 3, 3], [0, 1, 1]]
    assert f1_score(counts) == pytest.approx(2 * 2 / 8)
    low, high = f1_interval(counts, seed=0)
    assert low == 0.0
    assert high == pytest.approx(2 / 3)


def test_nothing_predicted_scores_zero():
    counts = count_hits(np.zeros(3), [Example("x", BOUNDARY, 0, 1)] * 3, 0.5)[1]
    assert counts.tolist() == [[0, 3, 0]]
    assert f1_score(counts) == 0.0
    assert f1_score(np.zeros((2, 3))) == 0.0


@pytest.mark.parametrize(("signal", "least", "most"), [(6.0, 0.95, 1.0), (0.0, 0.0, 0.75)])
def test_a_layer_that_knows_boundaries(signal, least, most):
    task = task_of(clips=30)
    spans = {task.span(e): e.label for s in SPLITS for e in task.examples[s]}
    rng = np.random.default_rng(0)
    known = np.array([label == BOUNDARY for label in spans.values()])
    rows = rng.standard_normal((len(known), 5)) + signal * known[:, None] * np.eye(5)[0]
    table = {"0": torch.zeros(len(known), 5), "1": torch.from_numpy(rows.astype("f4"))}
    features = PooledFeatures({"mean": table}, {span: i for i, span in enumerate(spans)})
    score = run_probe(task, features, ProbeSettings(), "boundaries")
    assert score.metric == "f1_20ms"
    assert least <= score.value <= most
    assert score.ci95[0] <= score.value <= score.ci95[1]
    assert score.majority is None
    assert 0 < score.chosen["threshold"] < 1
