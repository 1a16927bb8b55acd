"""Trains all networks of a grid at once, each stopped and kept at its own best epoch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ssl_audio.memory import keep_freed_memory
from ssl_audio.probes.hear.grid import GridPoint, Schedule
from ssl_audio.probes.hear.mlp import MLPStack, losses, probabilities

Choice = TypeVar("Choice")
Validate = Callable[[np.ndarray, float], tuple[float, Choice]]


@dataclass(frozen=True, slots=True)
class Trained(Generic[Choice]):
    """One grid point at its best epoch.

    Attributes:
        point: the hyper-parameters.
        score: on valid; higher is better.
        epoch: number of epochs trained until then.
        choice: what else validation chose (the post-processing of events).
        state: the network's weights (see ``MLPStack.state_of``).
    """

    point: GridPoint
    score: float
    epoch: int
    choice: Choice
    state: dict[str, Tensor]


def train_grid(
    points: Sequence[GridPoint],
    train: tuple[Tensor, Tensor],
    valid: tuple[Tensor, Tensor],
    validate: Validate[Choice],
    *,
    multilabel: bool,
    schedule: Schedule,
    shuffle: bool,
    seed: int,
    bf16: bool = False,
) -> list[Trained[Choice]]:
    """Adam on every point, with early stopping; deterministic in ``seed``.

    Args:
        points: what to try; results come in this order.
        train, valid: (N, D) float32 and (N, C) targets, 0 or 1.
        validate: (N, C) probabilities and mean loss to a score (higher is better) and a choice.
        multilabel: binary instead of softmax cross entropy.
        schedule: length of training.
        shuffle: anew in each epoch; else the given order.
        seed: of weights, masks and orders.
        bf16: see ``MLPStack``.

    Raises:
        ValueError: fewer than two training examples (batch norm has no variance then).
    """
    if len(train[0]) < 2:
        raise ValueError(f"{len(train[0])} training examples; at least two are needed")
    if train[0].device.type == "cpu":
        keep_freed_memory()
    results: dict[GridPoint, Trained[Choice]] = {}
    for members in _alike(points):
        results |= _train_stack(
            members, train, valid, validate, multilabel, schedule, shuffle, seed, bf16
        )
    return [results[point] for point in points]


def predict(trained: Trained[Choice], x: Tensor, num_classes: int, multilabel: bool) -> np.ndarray:
    """(N, C) probabilities of one network at its best epoch."""
    stack = MLPStack(x.shape[1], num_classes, [trained.point], device=x.device)
    stack.load([trained.state])
    logits = _logits(stack.eval(), x)
    return probabilities(logits[0], multilabel).cpu().numpy()


def _alike(points: Sequence[GridPoint]) -> list[list[GridPoint]]:
    """Points whose networks fit one stack."""
    groups: dict[tuple[int, int, float], list[GridPoint]] = {}
    for point in dict.fromkeys(points):
        key = point.hidden_layers, point.hidden_dim, point.dropout
        groups.setdefault(key, []).append(point)
    return list(groups.values())


def _train_stack(
    points: list[GridPoint],
    train: tuple[Tensor, Tensor],
    valid: tuple[Tensor, Tensor],
    validate: Validate[Choice],
    multilabel: bool,
    schedule: Schedule,
    shuffle: bool,
    seed: int,
    bf16: bool,
) -> dict[GridPoint, Trained[Choice]]:
    generator = torch.Generator().manual_seed(seed)
    x, y = train
    stack = MLPStack(x.shape[1], y.shape[1], points, seed, x.device, bf16)
    adam = StackedAdam(stack)
    best: dict[GridPoint, Trained[Choice]] = {}
    waited = dict.fromkeys(points, 0)
    for epoch in range(1, schedule.max_epochs + 1):
        stack.train()
        for rows in _batches(len(x), schedule.batch_size, shuffle, generator):
            losses(stack(x[rows]), y[rows], multilabel).sum().backward()
            adam.step()
        if epoch % schedule.validate_every and epoch < schedule.max_epochs:
            continue
        logits = _logits(stack.eval(), valid[0])
        valid_losses = losses(logits, valid[1], multilabel).tolist()
        outputs = probabilities(logits, multilabel).cpu().numpy()
        for row, point in enumerate(stack.points):
            score, choice = validate(outputs[row], valid_losses[row])
            waited[point] += 1
            if point not in best or score > best[point].score:
                best[point] = Trained(point, score, epoch, choice, stack.state_of(row))
                waited[point] = 0
        going = [i for i, p in enumerate(stack.points) if waited[p] < schedule.patience]
        if epoch // schedule.validate_every in schedule.halve_after:
            rank = {i: (best[stack.points[i]].score, -valid_losses[i]) for i in going}
            going = sorted(sorted(going, key=rank.__getitem__)[len(going) // 2 :])
        if not going:
            break
        if len(going) < len(stack.points):
            adam.keep(going)
    return best


class StackedAdam:
    """Adam, one learning rate per network of the stack.

    Each network has an optimizer over views of its part of the stacked parameters: what one step
    touches then fits a CPU's cache, and a network that stops takes its statistics with it.
    """

    def __init__(self, stack: MLPStack) -> None:
        self.stack = stack
        self.members = [
            [nn.Parameter(stacked.data[row]) for stacked in stack.parameters()]
            for row in range(len(stack.points))
        ]
        self.adams = [
            torch.optim.Adam(member, point.lr, fused=True)
            for member, point in zip(self.members, stack.points, strict=True)
        ]

    def step(self) -> None:
        """One update with the gradients of the stack, which are cleared."""
        working = list(self.stack.working.values())
        for row, (member, adam) in enumerate(zip(self.members, self.adams, strict=True)):
            for parameter, used in zip(member, working, strict=True):
                assert used.grad is not None
                parameter.grad = used.grad[row].float()
            adam.step()
            adam.zero_grad()
            for parameter, used in zip(member, working, strict=True):
                if used.dtype != parameter.dtype:
                    used.data[row].copy_(parameter.data)
        for used in working:
            used.grad = None

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all networks but ``rows``, here and in the stack."""
        self.stack.keep(rows)
        self.members = [self.members[row] for row in rows]
        self.adams = [self.adams[row] for row in rows]
        for row, member in enumerate(self.members):
            for parameter, stacked in zip(member, self.stack.parameters(), strict=True):
                parameter.data = stacked.data[row]


def _batches(
    count: int, size: int, shuffle: bool, generator: torch.Generator
) -> Iterator[Tensor | slice]:
    """Rows of each batch; a last single row joins the batch before it."""
    bounds = [*list(range(0, count, size)), count]
    if len(bounds) > 2 and bounds[-1] - bounds[-2] == 1:
        del bounds[-2]
    order = torch.randperm(count, generator=generator) if shuffle else None
    for start, stop in itertools.pairwise(bounds):
        yield slice(start, stop) if order is None else order[start:stop]


@torch.no_grad()
def _logits(stack: MLPStack, x: Tensor, rows: int = 4096) -> Tensor:
    """(G, N, C)."""
    return torch.cat([stack(part).float() for part in x.split(rows)], dim=1)
