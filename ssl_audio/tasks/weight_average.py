"""The mean of a model's weights over the end of its training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """Running mean of the weights after every ``every``-th of the last ``steps`` optimizer steps.

    The same as icefall's export, which subtracts the running means of two checkpoints, without
    keeping the earlier one (``icefall/checkpoint.py``, update_averaged_model). It lies on the CPU.

    Args:
        every: optimizer steps between two weights that are averaged.
        steps: how long before the end averaging begins.
        max_steps: optimizer steps of the run.

    Raises:
        ValueError: an interval or a length below 1.
    """

    def __init__(self, every: int, steps: int, max_steps: int) -> None:
        if every < 1 or steps < 1:
            raise ValueError(
                f"task.average has every={every}, steps={steps}: choose at least 1, or "
                "task.average=null for the last step's weights"
            )
        self.every, self.begin = every, max_steps - steps
        self.count = 0
        self.weights: dict[str, Tensor] = {}  # empty before the first

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take ``module`` into the mean if the ``step``-th optimizer step is one to average."""
        if step <= self.begin or step % self.every:
            return
        self.count += 1
        for name, x in module.state_dict().items():
            now = x.detach().to("cpu", copy=True)
            if self.count > 1 and now.is_floating_point():
                now = self.weights[name].lerp_(now, 1 / self.count)
            self.weights[name] = now

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.weights = state["count"], dict(state["weights"])
