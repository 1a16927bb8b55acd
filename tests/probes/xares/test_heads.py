from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssl_audio.probes.metrics.xares import segment_f1
from ssl_audio.probes.xares.data import Rows, joined
from ssl_audio.probes.xares.heads import Scorer, linear_head, nearest_neighbours
from ssl_audio.probes.xares.task import Recipe

CLIP = Recipe(label="x", classes=3, weight=1, zenodo=1, batch_size=16)
FRAMES = Recipe(
    label="x", classes=2, weight=1, zenodo=1, kind="frames", metric="segment_f1_micro",
    segment_sec=0.05, batch_size=2,
)  # fmt: skip


def clips(count=60, seed=0, spread=1.0, dim=128):
    """One row a clip, three classes."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((3, dim))
    labels = np.arange(count) % 3
    x = centres[labels] + spread * rng.standard_normal((count, dim))
    return Rows(torch.tensor(x).float(), np.eye(3, dtype=np.uint8)[labels], np.arange(count))


def test_crops_of_a_clip_are_averaged_unless_as_published():
    targets = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], dtype=np.uint8)
    rows = Rows(torch.zeros(4, 1), targets, np.array([0, 0, 0, 1]))
    answers = np.array([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0.6, 0.4]])
    recipe = Recipe(label="x", classes=2, weight=1, zenodo=1)
    assert Scorer(rows, recipe, 20.0)(answers) == 0.5
    assert Scorer(rows, recipe, 20.0, per_crop=True)(answers) == 0.25


def test_frames_score_as_their_clips_do_alone():
    rng = np.random.default_rng(0)
    counts = [13, 7, 25]
    targets = rng.integers(2, size=(sum(counts), 2)).astype(np.uint8)
    answers = np.clip(targets + 0.7 * rng.standard_normal(targets.shape), 0, 1)
    rows = Rows(torch.zeros(45, 1), targets, np.repeat(np.arange(3), counts))
    hits = total = 0
    bounds = np.cumsum([0, *counts])
    for start, stop in itertools.pairwise(bounds):
        pooled = [  # by hand: 50 ms are three frames of 20 ms
            np.stack([part[i : i + 3].max(0) for i in range(0, len(part) - 2, 3)])
            for part in (answers[start:stop] > 0.5, targets[start:stop] > 0)
        ]
        hits += (pooled[0] & pooled[1]).sum()
        total += pooled[0].sum() + pooled[1].sum()
    assert Scorer(rows, FRAMES, 20.0)(answers) == pytest.approx(2 * hits / total)
    alone = Rows(rows.x[:13], targets[:13], rows.clips[:13])
    wanted = segment_f1(
        answers[None, :13] > 0.5, targets[None, :13], hop_ms=20, segment_sec=0.05, average="micro"
    )
    assert Scorer(alone, FRAMES, 20.0)(answers[:13]) == pytest.approx(wanted)


def test_the_linear_head_learns_and_keeps_its_best_epoch():
    train, valid, test = clips(), clips(30, 1), clips(30, 2)
    scores = []

    def score(answers):
        scores.append(Scorer(valid, CLIP, 20.0)(answers) if len(scores) < 4 else -1.0)
        return scores[-1]

    answer, best = linear_head(train, valid, CLIP, score, seed=0)
    assert len(scores) == CLIP.epochs
    assert best == max(scores)
    assert Scorer(valid, CLIP, 20.0)(answer(valid)) == best
    recipe = replace(CLIP, batch_size=4, epochs=12)
    answer, _ = linear_head(train, valid, recipe, Scorer(valid, recipe, 20.0), seed=0)
    assert Scorer(test, recipe, 20.0)(answer(test)) > 0.9
    recipe = replace(CLIP, epochs=2)
    answers = [
        linear_head(train, valid, recipe, Scorer(valid, recipe, 20.0), seed=seed)[0](test)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(answers[0], answers[1])
    assert not np.array_equal(answers[0], answers[2])


def test_frames_train_by_clip_with_weighted_positives():
    rows = clips(60)
    frames = Rows(rows.x, rows.targets[:, :2], np.repeat(np.arange(6), 10))
    answers = []
    for weight in (1.0, 10.0):
        recipe = replace(FRAMES, positive_weight=weight, epochs=30)
        answer, _ = linear_head(frames, frames, recipe, Scorer(frames, recipe, 20.0), seed=0)
        answers.append(answer(frames))
    assert answers[1].mean() > answers[0].mean() + 0.05
    active = frames.targets > 0
    assert answers[0][active].mean() > answers[0][~active].mean() + 0.1


def test_k_nn_beats_its_published_self_on_clips_of_unequal_norm():
    train, test = clips(90, 0, 2.0), clips(60, 1, 2.0)
    norms = torch.logspace(0, 2, 90)[:, None]  # the last clips become everyone's neighbours
    train = replace(train, x=norms * train.x)
    found = {
        published: Scorer(test, CLIP, 20.0)(nearest_neighbours(train, test, as_published=published))
        for published in (False, True)
    }
    assert found[False] > 0.85
    assert found[False] > found[True]


def test_joined_keeps_clips_apart():
    both = joined([clips(4), clips(3)])
    assert both.clips.tolist() == list(range(7))
    assert both.num_clips == 7
