from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from ssl_audio.probes.hear.grid import GridPoint, Schedule, full_grid, shuffled_grid
from ssl_audio.probes.hear.mlp import MLPStack, losses
from ssl_audio.probes.hear.training import StackedAdam, predict, train_grid

LRS = (3e-3, 1e-3, 1e-4)


def points(layers=2, dim=16, dropout=0.0):
    return [GridPoint(layers, lr, "xavier_normal", dim, dropout) for lr in LRS]


def reference_of(stack, row, num_features, num_classes):
    """The same network from PyTorch's own layers."""
    point, modules, width = stack.points[row], [], num_features
    for _ in range(point.hidden_layers):
        modules += [nn.Linear(width, point.hidden_dim), nn.BatchNorm1d(point.hidden_dim)]
        modules += [nn.Dropout(point.dropout), nn.ReLU()]
        width = point.hidden_dim
    net = nn.Module()
    net.hidden, net.projection = nn.Sequential(*modules), nn.Linear(width, num_classes)
    net.load_state_dict(stack.state_of(row), strict=False)
    return net


def data(rows=40, features=5, classes=3, seed=0):
    direction = torch.randn(features, classes, generator=torch.Generator().manual_seed(9))
    x = torch.randn(rows, features, generator=torch.Generator().manual_seed(seed))
    labels = (x @ direction).argmax(1)
    return x, nn.functional.one_hot(labels, classes).to(torch.uint8)


@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.parametrize("multilabel", [False, True])
def test_a_stack_trains_as_its_networks_would_alone(layers, multilabel):
    x, y = data()
    stack = MLPStack(5, 3, points(layers), seed=3)
    nets = [reference_of(stack, row, 5, 3) for row in range(3)]
    adam = StackedAdam(stack)
    steps = [torch.optim.Adam(net.parameters(), lr) for net, lr in zip(nets, LRS, strict=True)]
    kept = [0, 1, 2]
    for number in range(12):
        if number == 6:  # a network leaves, the others go on
            adam.keep([0, 2])
            kept = [0, 2]
        losses(stack(x), y, multilabel).sum().backward()
        adam.step()
        for row in kept:
            logits = nets[row].projection(nets[row].hidden(x))
            if multilabel:
                loss = nn.functional.binary_cross_entropy_with_logits(logits, y.float())
            else:
                loss = nn.functional.cross_entropy(logits, y.argmax(1))
            steps[row].zero_grad()
            loss.backward()
            steps[row].step()
    for place, row in enumerate(kept):  # norms by batch: noise moves the biases before them
        wanted = nets[row].projection(nets[row].hidden(x))
        torch.testing.assert_close(stack(x)[place], wanted, atol=1e-3, rtol=1e-3)


def test_initial_weights_have_xaviers_spread():
    uniform, normal = (
        GridPoint(2, 1e-3, init, hidden_dim=256) for init in ("xavier_uniform", "xavier_normal")
    )
    stack = MLPStack(128, 10, [uniform, normal])
    wanted = {"weight0": 2 / (128 + 256), "weight1": 4 / 512, "weight2": 4 / 266}
    for name, variance in wanted.items():
        weight = stack.get_parameter(name)
        assert weight.var(dim=(1, 2)).tolist() == pytest.approx([variance, variance], rel=0.1)
    assert stack.weight0[0].abs().max().item() <= math.sqrt(3 * 2 / (128 + 256))


def test_dropout_keeps_the_mean_and_is_off_in_eval():
    point = GridPoint(1, 1e-3, "xavier_normal", hidden_dim=4096, dropout=0.25)
    stack = MLPStack(4, 2, [point])
    dropped = stack._dropped(torch.ones(1, 8, 4096))
    assert sorted(dropped.unique().tolist()) == pytest.approx([0.0, 1 / 0.75])
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.02)
    assert (stack.eval()._dropped(torch.ones(1, 8, 4096)) == 1).all()


def accuracy(target):
    def validate(probabilities, loss):
        return float((probabilities.argmax(1) == target.argmax(1).numpy()).mean()), {}

    return validate


def trained(**changes):
    train, valid = data(rows=80), data(seed=1, rows=60)
    arguments = {
        "multilabel": False,
        "schedule": Schedule(max_epochs=60, validate_every=3, patience=4, batch_size=16),
        "shuffle": True,
        "seed": 0,
    } | changes
    grid = [*points(1), *points(2)]
    return train_grid(grid, train, valid, accuracy(valid[1]), **arguments), valid


def test_every_point_is_kept_at_its_best_epoch():
    results, valid = trained()
    assert [result.point for result in results] == [*points(1), *points(2)]
    for result in results:
        assert result.epoch % 3 == 0
        again = predict(result, valid[0], 3, False)
        assert accuracy(valid[1])(again, 0.0)[0] == pytest.approx(result.score)
    assert max(result.score for result in results) > 0.9


def test_training_is_deterministic_and_the_seed_counts():
    first, second, other = (
        trained(seed=seed, schedule=Schedule(max_epochs=6))[0] for seed in (0, 0, 1)
    )
    assert [r.score for r in first] == [r.score for r in second]
    torch.testing.assert_close(first[0].state, second[0].state, atol=0, rtol=0)
    assert not torch.equal(first[0].state["projection.bias"], other[0].state["projection.bias"])


def test_bf16_trains_as_well():
    results, _ = trained(bf16=True)
    assert max(result.score for result in results) > 0.9


def test_patience_ends_training():
    epochs = []

    def validate(probabilities, loss):
        epochs.append(len(epochs) + 1)
        return 1.0, None

    train = data()
    train_grid(
        points(1)[:1],
        train,
        train,
        validate,
        multilabel=False,
        schedule=Schedule(max_epochs=500, validate_every=3, patience=20),
        shuffle=False,
        seed=0,
    )
    assert len(epochs) == 21  # the best, and 20 without gain


def test_the_worse_half_of_each_depth_stops():
    schedule = Schedule(max_epochs=30, validate_every=3, patience=20, batch_size=16)
    whole, _ = trained(schedule=schedule)
    halved, _ = trained(schedule=replace(schedule, halve_after=(2, 4)))
    assert sum(r.epoch > 12 for r in whole) > 2
    for depth in (1, 2):
        ours, alone = (
            [r for r in results if r.point.hidden_layers == depth] for results in (halved, whole)
        )
        assert sum(r.epoch > 6 for r in ours) <= 2  # of three, two stay after six epochs
        assert sum(r.epoch > 12 for r in ours) <= 1
        survivor = max(ours, key=lambda r: r.epoch)
        assert survivor.point.lr != min(LRS)  # which learns next to nothing in six epochs
        same = alone[[r.point for r in alone].index(survivor.point)]
        torch.testing.assert_close(survivor.state, same.state, atol=1e-6, rtol=1e-5)
    assert max(result.score for result in halved) > 0.9


def test_a_last_batch_of_one_joins_the_batch_before():
    results, _ = trained(
        schedule=Schedule(max_epochs=3, validate_every=3, batch_size=79), shuffle=False
    )
    assert torch.isfinite(results[0].state["projection.bias"]).all()


def test_a_single_example_is_one_line():
    with pytest.raises(ValueError, match="1 training examples; at least two"):
        train_grid(
            points(1),
            data(rows=1),
            data(),
            accuracy(data()[1]),
            multilabel=False,
            schedule=Schedule(),
            shuffle=False,
            seed=0,
        )


def test_the_grid_has_sixteen_points_and_the_kits_order():
    assert len(set(full_grid())) == 16
    first = [(p.hidden_layers, p.lr, p.init[7]) for p in shuffled_grid()[:3]]
    assert first == [(1, 1e-4, "n"), (2, 1e-3, "u"), (1, 1e-3, "n")]


def test_metadata_change_the_schedule():
    grid = {"max_epochs": [50], "check_val_every_n_epoch": [1], "lr": [1.0]}
    assert Schedule().changed_by(grid) == Schedule(max_epochs=50, validate_every=1)
