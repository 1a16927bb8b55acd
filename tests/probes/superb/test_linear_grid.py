from __future__ import annotations

import pytest
import torch
from torch import nn

from ssl_audio.probes.superb.featurizer import Featurizer, normalised
from ssl_audio.probes.superb.heads import MeanPoolLinear, mean_pool
from ssl_audio.probes.superb.linear_grid import (
    GridTraining,
    LabelledMeans,
    LinearGrid,
    _batches,
    slot_losses,
    train_linear_grid,
)

TRAINING = GridTraining(
    lrs=(1e-1, 1e-2, 1e-3), steps=30, eval_every=10, batch_size=8, hidden=6, max_grad_norm=0.1
)


def clusters(count: int, seed: int, slots: int = 1) -> LabelledMeans:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(3, (count, slots), generator=generator)
    centres = torch.eye(3).repeat(1, 4)[:, :10]
    means = torch.randn(count, 2, 10, generator=generator)
    means[:, 1] += 2 * centres[targets[:, 0]]
    return LabelledMeans(means, targets, torch.ones(count))


@pytest.mark.parametrize("layer_norm", [False, True])
def test_layer_means_give_the_logits_of_frames(layer_norm):
    torch.manual_seed(0)
    states = torch.randn(3, 4, 50, 10)  # L, B, T, D
    states = normalised(states) if layer_norm else states
    lengths = torch.tensor([50, 31, 2, 1])
    grid = LinearGrid(3, 10, 6, 5, num_heads=2)
    grid.flat.data += 0.3 * torch.randn_like(grid.flat)
    means = torch.stack([mean_pool(layer, lengths) for layer in states], dim=1)
    logits = grid(means)
    for row in range(2):
        featurizer, head = grid.head(row)
        wanted = head(featurizer(states), lengths)
        torch.testing.assert_close(logits[row], wanted, atol=1e-5, rtol=0)


def test_the_grid_trains_as_a_loop_over_learning_rates():
    train, valid = clusters(40, 0, slots=2), clusters(30, 1, slots=2)
    found = train_linear_grid(train, valid, [3, 3], TRAINING)
    assert [head.lr for head in found] == list(TRAINING.lrs)
    for head in found:
        torch.manual_seed(TRAINING.seed)
        peer = nn.ModuleList([Featurizer(2), MeanPoolLinear(10, 6, 6)])
        adam = torch.optim.Adam(peer.parameters(), lr=head.lr)
        batches = _batches(train.weights, TRAINING.batch_size, TRAINING.seed)
        history = []
        for step in range(1, TRAINING.steps + 1):
            rows = next(batches)
            logits = peer_logits(peer, train.means[rows])
            adam.zero_grad()
            loss = sum(
                nn.functional.cross_entropy(logits[:, 3 * s : 3 * s + 3], train.targets[rows, s])
                for s in range(2)
            )
            loss.backward()
            nn.utils.clip_grad_norm_(peer.parameters(), TRAINING.max_grad_norm)
            adam.step()
            if step % TRAINING.eval_every == 0:
                picked = peer_logits(peer, valid.means).unflatten(1, (2, 3)).argmax(-1)
                history.append((step, (picked == valid.targets).all(1).float().mean().item()))
            if step == head.step:
                best = [parameter.detach().clone() for parameter in peer.parameters()]
        assert [step for step, _ in head.history] == [step for step, _ in history]
        assert dict(head.history) == pytest.approx(dict(history))
        assert head.score == max(score for _, score in history)
        ours = [*head.featurizer.parameters(), *head.head.parameters()]
        for mine, theirs in zip(ours, best, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def peer_logits(peer: nn.ModuleList, means: torch.Tensor) -> torch.Tensor:
    frames = peer[0](means.transpose(0, 1))[:, None]
    return peer[1](frames, torch.ones(len(means), dtype=torch.int64))


def test_the_layer_that_helps_gets_the_weight():
    train, valid = clusters(200, 0), clusters(100, 1)
    training = GridTraining(lrs=(3e-2,), steps=150, eval_every=50, batch_size=32, hidden=8)
    (head,) = train_linear_grid(train, valid, [3], training)
    assert head.score > 0.9
    assert head.featurizer.weights[1] > 0.8
    predicted = head.predict(valid.means, [3])
    assert (predicted == valid.targets).float().mean().item() == pytest.approx(head.score)


def test_labels_that_train_does_not_show_are_never_right():
    train, valid = clusters(40, 0), clusters(20, 1)
    unknown = LabelledMeans(valid.means, torch.full_like(valid.targets, -1), valid.weights)
    assert all(head.score == 0 for head in train_linear_grid(train, unknown, [3], TRAINING))


def test_weights_balance_batches_and_scores():
    weights = torch.tensor([1 / 90] * 90 + [1 / 10] * 10)
    drawn = torch.cat(
        [batch for batch, _ in zip(_batches(weights, 20, 0), range(50), strict=False)]
    )
    assert (drawn >= 90).float().mean().item() == pytest.approx(0.5, abs=0.06)
    uniform = next(_batches(torch.ones(7), 7, 0))
    assert sorted(uniform.tolist()) == list(range(7))


def test_losses_of_slots_are_summed():
    logits = torch.randn(2, 5, 7)
    targets = torch.stack([torch.arange(5) % 3, torch.arange(5) % 4], dim=1)
    for row, loss in enumerate(slot_losses(logits, targets, [3, 4])):
        wanted = nn.functional.cross_entropy(logits[row, :, :3], targets[:, 0])
        wanted = wanted + nn.functional.cross_entropy(logits[row, :, 3:], targets[:, 1])
        torch.testing.assert_close(loss, wanted)
