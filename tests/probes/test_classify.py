from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ssl_audio.probes.classify import ProbeSettings, run_probe
from ssl_audio.probes.features import PooledFeatures
from ssl_audio.probes.heads import ALL_LAYERS
from ssl_audio.probes.suite import SPLITS, Example, ProbeTask

SETTINGS = ProbeSettings()


def classification(layers, counts=(60, 30, 30), classes=3, seed=0):
    """A frame task and features; ``layers`` gives each layer's signal-to-noise ratio."""
    rng = np.random.default_rng(seed)
    examples, labels = {}, []
    for split, count in zip(SPLITS, counts, strict=True):
        examples[split] = tuple(
            Example(f"{split}{i}", f"class{i % classes}", 0.0, 0.02) for i in range(count)
        )
        labels += [i % classes for i in range(count)]
    task = ProbeTask("toy", "frame", examples)
    spans = [task.span(e) for split in SPLITS for e in examples[split]]
    tables = {
        name: torch.from_numpy(
            (snr * np.eye(classes, 8)[labels] + rng.standard_normal((len(labels), 8))).astype("f4")
        )
        for name, snr in layers.items()
    }
    return task, PooledFeatures({"mean": tables}, {span: i for i, span in enumerate(spans)})


def test_chooses_the_informative_layer_on_valid():
    task, features = classification({"0": 0.0, "1": 9.0, "2": 0.5})
    score = run_probe(task, features, SETTINGS)
    assert score.layer in ("1", ALL_LAYERS)
    assert score.value == 1.0
    assert score.ci95 == (1.0, 1.0)
    assert score.valid == max(max(values) for values in score.grid.values())
    assert set(score.grid) == {"0", "1", "2", ALL_LAYERS}
    assert all(len(values) == len(SETTINGS.inverse_penalties) for values in score.grid.values())
    assert (score.num_train, score.num_valid, score.num_test) == (60, 30, 30)


def test_noise_scores_at_chance():
    task, features = classification({"0": 0.0}, counts=(90, 60, 300))
    score = run_probe(task, features, SETTINGS)
    assert score.ci95[0] < 1 / 3 + 0.05
    assert score.value == pytest.approx(1 / 3, abs=0.1)
    assert score.majority == pytest.approx(1 / 3)


def test_test_labels_do_not_influence_the_choice():
    task, features = classification({"0": 0.5, "1": 0.5})
    score = run_probe(task, features, SETTINGS)
    rotated = tuple(e._replace(label="class0") for e in task.examples["test"])
    other = run_probe(
        replace(task, examples={**task.examples, "test": rotated}), features, SETTINGS
    )
    assert (other.layer, other.chosen, other.grid) == (score.layer, score.chosen, score.grid)


def test_is_reproducible():
    task, features = classification({"0": 0.5, "1": 0.7})
    first, second = (run_probe(task, features, SETTINGS) for _ in range(2))
    assert replace(first, seconds=0.0) == replace(second, seconds=0.0)


@pytest.mark.parametrize(("split", "field"), [("test", "value"), ("valid", "valid")])
def test_labels_unseen_in_training_count_as_wrong(split, field):
    task, features = classification({"0": 9.0})
    unseen = tuple(e._replace(label="new") for e in task.examples[split])
    score = run_probe(replace(task, examples={**task.examples, split: unseen}), features, SETTINGS)
    assert getattr(score, field) == 0.0


def test_a_layer_with_nan_is_not_a_candidate():
    task, features = classification({"0": 0.0, "1": 9.0})
    features.tables["mean"]["1"][3, 2] = float("nan")
    assert set(run_probe(task, features, SETTINGS).grid) == {"0"}
    features.tables["mean"]["0"][-1, 0] = float("inf")
    with pytest.raises(ValueError, match="NaN or infinite values in every layer"):
        run_probe(task, features, SETTINGS)


def test_degenerate_tasks_end_in_one_line():
    task, features = classification({"0": 1.0})
    nothing = replace(task, examples={**task.examples, "valid": ()})
    with pytest.raises(ValueError, match="no examples in split 'valid'"):
        run_probe(nothing, features, SETTINGS)
    failed = PooledFeatures(
        features.tables, {s: r for s, r in features.rows.items() if not s.clip.startswith("test")}
    )
    with pytest.raises(ValueError, match="no features for split 'test'"):
        run_probe(task, failed, SETTINGS)


def test_settings_take_what_a_config_gives():
    assert ProbeSettings(inverse_penalties=[1, 10]) == ProbeSettings(inverse_penalties=(1.0, 10.0))
    with pytest.raises(ValueError, match="must be positive"):
        ProbeSettings(inverse_penalties=(0.0,))
