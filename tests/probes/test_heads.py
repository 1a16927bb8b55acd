from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeClassifier

from ssl_audio.probes.classify import ProbeSettings, run_probe
from ssl_audio.probes.features import PooledFeatures
from ssl_audio.probes.heads import HEADS, SUM, HeadSettings, TaskData, knn, ridge
from ssl_audio.probes.linear import Standardiser
from ssl_audio.probes.suite import SPLITS, Example, ProbeTask

SETTINGS = HeadSettings((1.0,), 50)

pytestmark = pytest.mark.usefixtures("quick_heads")


def task_data(signal=3.0, counts=(60, 30, 45), classes=3, layers=2, dim=8, seed=0):
    """Layer 0 is noise, the others hold the class."""
    rng = np.random.default_rng(seed)
    targets = {s: np.arange(n) % classes for s, n in zip(SPLITS, counts, strict=True)}
    tables = {}
    for layer in range(layers):
        rows = {
            s: torch.from_numpy(
                (
                    (signal if layer else 0) * np.eye(classes, dim)[labels]
                    + rng.standard_normal((len(labels), dim))
                ).astype("f4")
            )
            for s, labels in targets.items()
        }
        scale = Standardiser.fit(rows["train"])
        tables[str(layer)] = {s: scale(x) for s, x in rows.items()}
    return TaskData(tables, targets, classes, seed=1)


def accuracy(logits, labels):
    return float(np.mean(logits.argmax(-1).numpy() == labels))


@pytest.mark.parametrize("name", list(HEADS))
def test_every_head_finds_the_signal_and_nothing_in_noise(name):
    def best(signal):
        data = task_data(signal)
        return max(
            HEADS[name](data, SETTINGS), key=lambda c: accuracy(c.valid, data.targets["valid"])
        )

    found, noise = best(4.0), best(0.0)
    labels = task_data().targets["test"]
    assert accuracy(found.test(), labels) > 0.75
    assert accuracy(noise.test(), labels) < 0.6
    assert found.layer != "0"


@pytest.mark.parametrize("name", list(HEADS))
def test_every_head_is_reproducible(name):
    first, second = (list(HEADS[name](task_data(), SETTINGS)) for _ in range(2))
    assert [c.setting for c in first] == [c.setting for c in second]
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.valid, other.valid)
        assert torch.equal(one.test(), other.test())


def test_ridge_is_that_of_scikit_learn_with_the_penalty_that_leaves_one_out_best():
    data = task_data(signal=1.0)
    candidate = next(c for c in ridge(data, SETTINGS) if c.layer == "1")
    rows, labels = data.layers["1"]["train"].numpy(), data.targets["train"]
    scale = len(rows) * rows.var(0).mean()  # ours is relative to the mean variance
    errors = {}
    for penalty in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0):
        wrong = 0.0
        for left_out in range(len(rows)):
            keep = np.arange(len(rows)) != left_out
            targets = np.eye(3)[labels[keep]]
            mean, centre = targets.mean(0), rows[keep].mean(0)
            x = rows[keep] - centre
            weight = np.linalg.solve(
                x.T @ x + penalty * scale * np.eye(x.shape[1]), x.T @ (targets - mean)
            )
            predicted = (rows[left_out] - centre) @ weight + mean
            wrong += np.square(np.eye(3)[labels[left_out]] - predicted).sum()
        errors[penalty] = wrong
    best = min(errors, key=errors.get)
    assert candidate.setting["penalty"] == pytest.approx(best)
    peer = RidgeClassifier(alpha=best * scale).fit(rows, labels)
    expected = (peer.decision_function(data.layers["1"]["valid"].numpy()) + 1) / 2
    assert candidate.valid.numpy() == pytest.approx(expected, abs=1e-4)


def test_more_neighbours_than_clips_are_all_clips():
    data = task_data(counts=(4, 6, 6), classes=2)
    (candidate, *_) = knn(data, SETTINGS)
    assert candidate.setting == {"k": 2}
    lonely = TaskData(
        {n: {**x, "train": x["train"][:2]} for n, x in data.layers.items()},
        {**data.targets, "train": np.array([0, 1])},
        num_classes=2,
        seed=0,
    )
    (candidate, *_) = knn(lonely, SETTINGS)
    assert candidate.setting == {"k": 1}
    assert torch.isfinite(candidate.valid).all()


def features_of(data):
    examples = {
        s: tuple(Example(f"{s}{i}", f"c{label}", 0.0, 0.02) for i, label in enumerate(labels))
        for s, labels in data.targets.items()
    }
    task = ProbeTask("toy", "frame", examples)
    spans = [task.span(e) for s in SPLITS for e in examples[s]]
    tables = {name: torch.cat([x[s] for s in SPLITS]) for name, x in data.layers.items()}
    return task, PooledFeatures({"mean": tables}, {span: i for i, span in enumerate(spans)})


def test_the_learned_sum_reports_its_weights():
    task, features = features_of(task_data(signal=4.0))
    score = run_probe(task, features, ProbeSettings(), "superb_linear")
    assert score.layer == SUM
    weights = score.chosen["layer_weights"]
    assert sum(weights.values()) == pytest.approx(1)
    assert weights["1"] > weights["0"]
    assert score.valid == max(score.grid[SUM])


def test_narrow_layers_are_summed_with_zeros_behind_them():
    data = task_data(layers=3)

    def first(change):
        layers = {**data.layers, "1": {s: change(x) for s, x in data.layers["1"].items()}}
        mixed = TaskData(layers, data.targets, data.num_classes, data.seed)
        return next(HEADS["superb_linear"](mixed, SETTINGS))

    narrow = first(lambda x: x[:, :4])
    padded = first(lambda x: torch.cat([x[:, :4], torch.zeros_like(x[:, 4:])], 1))
    assert set(narrow.setting["layer_weights"]) == {"0", "1", "2"}
    assert narrow.setting == padded.setting
    assert torch.equal(narrow.test(), padded.test())


@pytest.mark.parametrize("name", list(HEADS))
def test_a_class_that_test_or_training_lacks(name):
    data = task_data(signal=4.0)
    absent = np.where(data.targets["test"] == 2, 1, data.targets["test"])
    task, features = features_of(TaskData(data.layers, {**data.targets, "test": absent}, 3, seed=0))
    score = run_probe(task, features, ProbeSettings(), name)
    assert 0 <= score.value <= 0.8  # the third that is class 2 counts as wrong
    assert score.num_classes == 3
    unseen = {s: np.where(x == 2, 5, x) if s != "train" else x for s, x in data.targets.items()}
    task, features = features_of(TaskData(data.layers, unseen, 3, seed=0))
    score = run_probe(task, features, ProbeSettings(), name)
    assert max(score.value, score.valid) <= 2 / 3
