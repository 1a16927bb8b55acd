"""The linear heads of a whole learning-rate grid, trained as one tensor program on layer means.

Every step of KS, SID, ER and IC from layers to logits is affine, so the mean over time can be taken
first: an utterance is the means of its L layers, and what frames would give comes out exactly.

Axes: G learning rates, N utterances, L layers, D channels, H hidden channels, C classes, S slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_audio.probes.progress import with_bar
from ssl_audio.probes.superb.featurizer import Featurizer
from ssl_audio.probes.superb.heads import MeanPoolLinear

PREDICTED_ROWS = 4096


@dataclass(frozen=True, slots=True)
class LabelledMeans:
    """One split.

    Attributes:
        means: (N, L, D) float32.
        targets: (N, S) int64, one class for each slot; -1 for a label that train does not show.
        weights: (N,) how much each utterance counts, and how often it is drawn in training.
    """

    means: Tensor
    targets: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True)
class GridTraining:
    """How long to train, and on what batches; see ``task.Recipe``.

    ``progress`` is the title of a bar, empty shows none.
    """

    lrs: tuple[float, ...]
    steps: int
    eval_every: int
    batch_size: int
    hidden: int
    max_grad_norm: float = 1.0
    seed: int = 0
    device: str = "cpu"
    progress: str = ""


@dataclass(frozen=True, slots=True)
class TrainedHead:
    """One learning rate at its best validation.

    Attributes:
        lr: its learning rate.
        score: weighted share of valid whose slots are all right.
        step: when that was.
        featurizer, head: with the weights of then, on the CPU.
        history: score at every validation.
    """

    lr: float
    score: float
    step: int
    featurizer: Featurizer
    head: MeanPoolLinear
    history: list[tuple[int, float]]

    @torch.no_grad()
    def predict(self, means: Tensor, slots: Sequence[int]) -> Tensor:
        """(N, L, D) to classes (N, S)."""
        ones = torch.ones(len(means), dtype=torch.int64)
        mixed = self.featurizer(means.transpose(0, 1))
        return predicted_classes(self.head(mixed[:, None], ones), slots)


class LinearGrid(nn.Module):
    """Featurizer, Linear, Linear for G learning rates; all from the same initial weights.

    Everything that one learning rate trains lies in one row of ``flat``, so that norms of gradients
    and optimizer steps go row by row.

    Args:
        num_layers: L.
        dim: D.
        hidden: H.
        num_classes: C, over all slots.
        num_heads: G.
    """

    def __init__(
        self, num_layers: int, dim: int, hidden: int, num_classes: int, num_heads: int
    ) -> None:
        super().__init__()
        first = nn.ModuleList([Featurizer(num_layers), MeanPoolLinear(dim, hidden, num_classes)])
        self.shapes = [parameter.shape for parameter in first.parameters()]
        row = torch.cat([parameter.detach().flatten() for parameter in first.parameters()])
        self.flat = nn.Parameter(row.repeat(num_heads, 1))

    def parts(self) -> list[Tensor]:
        """Layer logits (G, L), weight (G, H, D), bias (G, H), weight (G, C, H), bias (G, C)."""
        sizes = [shape.numel() for shape in self.shapes]
        split = self.flat.split(sizes, dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(split, self.shapes, strict=True)]

    def forward(self, means: Tensor) -> Tensor:
        """(N, L, D) to logits (G, N, C)."""
        layers, weight, bias, last_weight, last_bias = self.parts()
        mixed = torch.einsum("gl,nld->gnd", layers.softmax(-1), means)
        hidden = torch.baddbmm(bias[:, None], mixed, weight.transpose(1, 2))
        return torch.baddbmm(last_bias[:, None], hidden, last_weight.transpose(1, 2))

    def head(self, row: int) -> tuple[Featurizer, MeanPoolLinear]:
        """One learning rate's featurizer and head, copied to the CPU."""
        values = [part[row].detach().cpu().clone() for part in self.parts()]
        (layers,), (hidden, dim), _, (classes, _), _ = self.shapes
        modules = nn.ModuleList([Featurizer(layers), MeanPoolLinear(dim, hidden, classes)])
        for parameter, value in zip(modules.parameters(), values, strict=True):
            parameter.data = value
        return modules[0], modules[1]  # type: ignore[return-value]


def train_linear_grid(
    train: LabelledMeans, valid: LabelledMeans, slots: Sequence[int], training: GridTraining
) -> list[TrainedHead]:
    """Adam on every learning rate, each kept at its best validation; deterministic in the seed.

    Args:
        train: drawn with replacement by weight where weights differ, else shuffled every epoch.
        valid: scored every ``eval_every`` steps.
        slots: classes of each slot, S numbers.
        training: how.
    """
    device = training.device
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(training.seed)
        layers, dim = train.means.shape[1:]
        grid = LinearGrid(layers, dim, training.hidden, sum(slots), len(training.lrs)).to(device)
    rows = [nn.Parameter(row) for row in grid.flat.data]
    groups = [{"params": [row], "lr": lr} for row, lr in zip(rows, training.lrs, strict=True)]
    adam = torch.optim.Adam(groups, fused=True)
    means, targets = train.means.to(device), train.targets.to(device)
    valid_means = valid.means.to(device)
    batches = _batches(train.weights, training.batch_size, training.seed)
    best: list[TrainedHead | None] = [None] * len(rows)
    histories: list[list[tuple[int, float]]] = [[] for _ in rows]
    steps = range(1, training.steps + 1)
    for step in with_bar(steps, training.progress):
        picked = next(batches).to(device)
        loss = slot_losses(grid(means[picked]), targets[picked], slots).sum()
        (gradient,) = torch.autograd.grad(loss, grid.flat)
        _descend(adam, rows, gradient, training.max_grad_norm)
        if step % training.eval_every and step < training.steps:
            continue
        for row, score in enumerate(_scores(grid, valid_means, valid, slots)):
            histories[row].append((step, score))
            kept = best[row]
            if kept is None or score > kept.score:
                best[row] = TrainedHead(
                    training.lrs[row], score, step, *grid.head(row), histories[row]
                )
    return [head for head in best if head is not None]


def slot_losses(logits: Tensor, targets: Tensor, slots: Sequence[int]) -> Tensor:
    """(G,) cross entropies in nats, summed over slots, mean over utterances.

    Args:
        logits: (G, N, C).
        targets: (N, S).
        slots: classes of each slot.
    """
    total = logits.new_zeros(len(logits))
    for number, part in enumerate(logits.split(list(slots), dim=-1)):
        picked = part.log_softmax(-1).gather(2, targets[:, number].expand(len(part), -1)[..., None])
        total = total - picked.mean((1, 2))
    return total


def predicted_classes(logits: Tensor, slots: Sequence[int]) -> Tensor:
    """(..., C) to the best class of each slot (..., S)."""
    return torch.stack([x.argmax(-1) for x in logits.split(list(slots), dim=-1)], dim=-1)


def _descend(
    adam: torch.optim.Optimizer, rows: Sequence[nn.Parameter], gradient: Tensor, max_norm: float
) -> None:
    """One step of every row whose gradient is finite, clipped as ``clip_grad_norm_`` does."""
    norms = gradient.norm(dim=1)
    gradient = gradient * (max_norm / (norms + 1e-6)).clamp(max=1)[:, None]
    for row, part, finite in zip(rows, gradient, norms.isfinite().tolist(), strict=True):
        row.grad = part if finite else None
    adam.step()


@torch.no_grad()
def _scores(
    grid: LinearGrid, means: Tensor, valid: LabelledMeans, slots: Sequence[int]
) -> list[float]:
    """Weighted share of utterances whose slots are all right, for each learning rate."""
    found = [predicted_classes(grid(x), slots).cpu() for x in means.split(PREDICTED_ROWS)]
    hits = (torch.cat(found, dim=1) == valid.targets).all(-1)
    return ((hits * valid.weights).sum(1) / valid.weights.sum()).tolist()


def _batches(weights: Tensor, size: int, seed: int) -> Iterator[Tensor]:
    """Indices of batch after batch, without end."""
    generator = torch.Generator().manual_seed(seed)
    count = len(weights)
    balanced = bool((weights != weights[0]).any())
    while True:
        order = (
            torch.multinomial(weights, count, replacement=True, generator=generator)
            if balanced
            else torch.randperm(count, generator=generator)
        )
        yield from order.split(size)
