from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssl_audio import audio
from ssl_audio.probes.superb.pooled_task import Fold, PooledTask, _indices
from ssl_audio.probes.superb.task import Recipe, Settings, Utterance

RECIPE = Recipe("", (1e-2,), steps=60, eval_every=20, batch_size=8, options={"hidden": 16})


class Tones(PooledTask):
    """Pitch and loudness, two slots; ``folds`` is set by the test."""

    def __init__(self, folder, recipe, seed):
        self.recipe, self.seed = recipe, seed
        rng = np.random.default_rng(seed)
        splits = []
        for split, count in (("train", 12), ("valid", 8), ("test", 8)):
            splits.append([])
            for number in range(count):
                pitch, gain = number % 2, (number // 2) % 2
                time = np.arange(4800) / 16_000
                wave = (0.02, 0.4)[gain] * np.sin(2 * np.pi * (300, 2000)[pitch] * time)
                path = folder / f"{split}{number}.wav"
                audio.write(path, (wave + 1e-3 * rng.standard_normal(4800)).astype("f4"), 16_000)
                splits[-1].append(
                    Utterance(path.stem, path, (("low", "high")[pitch], ("p", "f")[gain]))
                )
        self.folds = [Fold(*splits)]


@pytest.fixture
def task(tmp_path):
    return Tones(tmp_path, RECIPE, 0)


def test_an_utterance_is_right_when_all_its_slots_are(task, layers):
    (fold,) = task.run(layers, Settings()).folds
    assert fold.scores == {"acc": 1.0}
    assert (fold.num_train, fold.num_test) == (12, 8)
    assert sum(fold.layer_weights.values()) == pytest.approx(1)
    train, valid, test = task.folds[0]
    test = [replace(u, target=(u.target[0], "f")) for u in test]  # half of them wrong
    task.folds = [Fold(train, valid, test)]
    assert task.run(layers, Settings()).folds[0].scores == {"acc": 0.5}


def test_a_label_that_train_does_not_show_is_wrong_and_no_error(task, layers):
    train, valid, test = task.folds[0]
    odd = [replace(u, target=("middle", u.target[1])) for u in test[:2]]
    task.folds = [Fold(train, valid, [*odd, *test[2:]])]
    assert task.run(layers, Settings()).folds[0].scores == {"acc": 0.75}
    assert _indices(odd, [["high", "low"], ["f", "p"]]).tolist() == [[-1, 1], [-1, 1]]


def test_balanced_classes_weigh_the_same(task):
    task.balanced = True
    train = task.folds[0].train[:7]
    sums = Counter()
    for utterance, weight in zip(train, task._weights(train).tolist(), strict=True):
        sums[utterance.target] += weight
    assert list(sums.values()) == pytest.approx([1.0] * 4)
    task.balanced = False
    assert torch.equal(task._weights(train), torch.ones(7))


def test_what_cannot_be_trained_on_is_one_line(task, layers):
    train, valid, test = task.folds[0]
    task.folds = [Fold([replace(u, target=("low", "f")) for u in train], valid, test)]
    with pytest.raises(ValueError, match="split 'train' has only one class, 'low'"):
        task.run(layers, Settings())
    for utterance in valid:
        utterance.path.write_bytes(b"no audio")
    task.folds = [Fold(train, valid, test)]
    with pytest.raises(ValueError, match="no file of split 'valid' can be used"):
        task.run(layers, Settings())
