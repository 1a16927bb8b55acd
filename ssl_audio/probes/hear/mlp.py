"""HEAR's shallow networks, many of one depth and width as one program.

Axes: G networks, N examples, D features, H hidden units, C classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_audio.probes.hear.grid import GridPoint

BATCH_NORM_EPS = 1e-5


class MLPStack(nn.Module):
    """G networks over the same input: [Linear, BatchNorm, Dropout, ReLU] x layers, Linear.

    All networks share the dropout mask of a step, which halves its cost and changes no network's
    distribution. Weights are stored (G, in, out). Initial values are Xavier's with gain 1 for the
    first layer and sqrt(2) behind a ReLU; biases are PyTorch's default. Source: hear-eval-kit,
    ``FullyConnectedPrediction``.

    Args:
        num_features: D.
        num_classes: C.
        points: G points of one depth, width and dropout.
        seed: of the initial weights and the dropout masks.
        device: where the networks live.
        bf16: products and activations in bfloat16, twice as fast where the processor can; weights,
            statistics of norms, sums and losses stay float32.

    Attributes:
        working: what products use, under the parameters' names: the parameters themselves, or
            bfloat16 copies of the weights, which collect the gradients then.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        points: Sequence[GridPoint],
        seed: int = 0,
        device: torch.device | str = "cpu",
        bf16: bool = False,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        first = points[0]
        assert {(p.hidden_layers, p.hidden_dim, p.dropout) for p in points} == {
            (first.hidden_layers, first.hidden_dim, first.dropout)
        }
        self.points, self.dropout = list(points), first.dropout
        self.precision = torch.bfloat16 if bf16 else torch.float32
        self.masks = torch.Generator(device).manual_seed(seed)
        self.num_layers = first.hidden_layers
        sizes = [num_features, *[first.hidden_dim] * first.hidden_layers, num_classes]
        inits = [point.init for point in points]
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            gain = nn.init.calculate_gain("relu" if layer else "linear")
            weights = [_xavier(fan_in, fan_out, init, gain, generator) for init in inits]
            limit = 1 / math.sqrt(fan_in)
            biases = torch.empty(len(points), fan_out).uniform_(-limit, limit, generator=generator)
            self.register_parameter(f"weight{layer}", nn.Parameter(torch.stack(weights)))
            self.register_parameter(f"bias{layer}", nn.Parameter(biases))
            if layer < self.num_layers:
                shape = len(points), fan_out
                self.register_parameter(f"scale{layer}", nn.Parameter(torch.ones(shape)))
                self.register_parameter(f"shift{layer}", nn.Parameter(torch.zeros(shape)))
                self.register_buffer(f"mean{layer}", torch.zeros(shape))
                self.register_buffer(f"var{layer}", torch.ones(shape))
        self.to(device)
        self.working: dict[str, nn.Parameter] = {}
        self._round()

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) to logits (G, N, C)."""
        h = x.to(self.precision).expand(len(self.points), -1, -1)
        for layer in range(self.num_layers + 1):
            bias = self.get_parameter(f"bias{layer}").to(self.precision)
            h = torch.baddbmm(bias[:, None], h, self.working[f"weight{layer}"])
            if layer < self.num_layers:
                h = torch.relu(self._dropped(self._normalised(h, layer)))
        return h.float()

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all networks but ``rows``."""
        self.points = [self.points[row] for row in rows]
        index = list(rows)
        for tensor in (*self.parameters(), *self.buffers()):
            tensor.data = tensor.data[index]
            tensor.grad = None
        self._round()

    def state_of(self, row: int) -> dict[str, Tensor]:
        """A copy of one network, under the names of ``hidden.<i>.*`` and ``projection.*``."""
        ours = {name: x[row].detach().clone() for name, x in self.state_dict().items()}
        return {theirs: _oriented(ours[name]) for name, theirs in self._names()}

    def load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Takes the weights of G networks as ``state_of`` gives them; strict."""
        own = self.state_dict()
        for name, theirs in self._names():
            own[name].copy_(torch.stack([_oriented(state[theirs]) for state in states]))
        self._round()

    def _round(self) -> None:
        """Makes the copies that products use."""
        for name, parameter in self.named_parameters():
            rounded = self.precision == torch.bfloat16 and name.startswith("weight")
            self.working[name] = nn.Parameter(parameter.bfloat16()) if rounded else parameter

    def _dropped(self, h: Tensor) -> Tensor:
        if not self.training or self.dropout == 0:
            return h
        kept = torch.rand(h.shape[1:], generator=self.masks, device=h.device) >= self.dropout
        return h * (kept / (1 - self.dropout)).to(h.dtype)

    def _normalised(self, h: Tensor, layer: int) -> Tensor:
        mean, var = self.get_buffer(f"mean{layer}"), self.get_buffer(f"var{layer}")
        scale, shift = self.get_parameter(f"scale{layer}"), self.get_parameter(f"shift{layer}")
        rows = zip(h.unbind(), mean, var, scale.unbind(), shift.unbind(), strict=True)
        return torch.stack(
            [
                functional.batch_norm(row, m, v, s, b, self.training, eps=BATCH_NORM_EPS)
                for row, m, v, s, b in rows
            ]
        )

    def _names(self) -> list[tuple[str, str]]:
        """(ours, the kit's); a block counts four modules."""
        linear = {"weight": "weight", "bias": "bias"}
        norm = {"scale": "weight", "shift": "bias", "mean": "running_mean", "var": "running_var"}
        names = []
        for layer in range(self.num_layers):
            names += [(f"{a}{layer}", f"hidden.{4 * layer}.{b}") for a, b in linear.items()]
            names += [(f"{a}{layer}", f"hidden.{4 * layer + 1}.{b}") for a, b in norm.items()]
        return names + [(f"{a}{self.num_layers}", f"projection.{b}") for a, b in linear.items()]


def probabilities(logits: Tensor, multilabel: bool) -> Tensor:
    """(..., C) sigmoid or softmax."""
    return torch.sigmoid(logits) if multilabel else torch.softmax(logits, dim=-1)


def losses(logits: Tensor, targets: Tensor, multilabel: bool) -> Tensor:
    """(G,) mean binary cross entropy, or cross entropy to the first class of each target, in nats.

    Args:
        logits: (G, N, C).
        targets: (N, C), 0 or 1.
        multilabel: a target may have any number of classes.
    """
    logits = logits.float()
    if multilabel:
        wanted = targets.to(logits).expand_as(logits)
        each = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        return each.mean(dim=(1, 2))
    wanted = targets.argmax(dim=1).expand(len(logits), -1)
    each = functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")
    return each.mean(dim=1)


def _xavier(
    fan_in: int, fan_out: int, init: str, gain: float, generator: torch.Generator
) -> Tensor:
    fill = {
        "xavier_uniform": nn.init.xavier_uniform_,
        "xavier_normal": nn.init.xavier_normal_,
    }[init]
    return fill(torch.empty(fan_in, fan_out), gain, generator=generator)


def _oriented(x: Tensor) -> Tensor:
    """Weights change between (in, out) here and PyTorch's (out, in)."""
    return x.T if x.ndim == 2 else x
