"""AdamW with warm-up and decay around a summed loss: BEATs, its tokenizers, fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ssl_audio.optim.schedules import warmup_decay_lr
from ssl_audio.tasks.step import SummedLossTask


class AdamWTask(SummedLossTask):
    """A ``SummedLossTask`` with AdamW, gradient clipping and means of what it logs.

    Args:
        optimizer: ``lr``, ``betas``, ``eps``, ``weight_decay`` and ``clip_norm``, the largest
            gradient norm (null for none).
        schedule: arguments of ``warmup_decay_lr`` besides the rate and the step.
        max_steps: optimizer steps of the run, where the schedule ends.
        seed: the run's seed.

    Raises:
        ValueError: the schedule's constants do not fit.
    """

    def __init__(
        self,
        optimizer: Mapping[str, Any],
        schedule: Mapping[str, Any],
        max_steps: int,
        seed: int,
    ) -> None:
        super().__init__(seed)
        self.optimizer_config = {key: x for key, x in optimizer.items() if key != "clip_norm"}
        self.clip_norm: float | None = optimizer["clip_norm"]
        self.schedule = dict(schedule)
        self.max_steps = max_steps
        self.lr_at(0)  # a schedule that cannot be is refused before anything is loaded
        self._valid_sums: dict[str, Tensor] = {}

    def lr_at(self, step: int) -> float:
        """Learning rate after ``step`` optimizer steps."""
        lr = self.optimizer_config["lr"]
        return warmup_decay_lr(lr, step, max_steps=self.max_steps, **self.schedule)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW; a group's ``lr`` is its own highest rate."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = AdamW(self.parameter_groups(), **self.optimizer_config)
        base_lr = self.optimizer_config["lr"]
        scheduler = LambdaLR(optimizer, lambda step: self.lr_at(step) / base_lr)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters(), self.clip_norm)
        if self._logs_this_step:
            self.log("train/lr", optimizer.param_groups[-1]["lr"])

    # ---- logging

    @property
    def _logs_this_step(self) -> bool:
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return self.global_step % every == 0

    def log_train(self, sums: Mapping[str, Tensor]) -> None:
        """Means of this rank's micro-batch; ``sums`` are name to (sum, count)."""
        if self._logs_this_step:
            self._log(sums, "train")

    def add_valid(self, sums: Mapping[str, Tensor]) -> None:
        """Collect a validation batch's ``sums``; the epoch's means are logged over all ranks."""
        for name, pair in sums.items():
            self._valid_sums[name] = self._valid_sums.get(name, torch.zeros_like(pair)) + pair

    def on_validation_epoch_start(self) -> None:
        self._valid_sums = {}

    def on_validation_epoch_end(self) -> None:
        reduce = self.trainer.strategy.reduce
        totals = {name: reduce(x, reduce_op="sum") for name, x in self._valid_sums.items()}
        self._log(totals, "valid")

    def _log(self, sums: Mapping[str, Tensor], prefix: str) -> None:
        sync = prefix == "valid"  # the sums are those of all ranks already; this says that we know
        for name, (total, count) in sums.items():
            if count > 0:
                mean = total / count
                self.log(f"{prefix}/{name}", mean, sync_dist=sync)
                if name == "loss":
                    self.log(f"{prefix}_loss", mean, prog_bar=True, logger=False, sync_dist=sync)


def pair(total: Tensor, count: Tensor | int) -> Tensor:
    """(2,) of a sum and what it counts, for ``log_train`` and ``add_valid``."""
    total = total.detach()
    dtype = torch.float64 if total.device.type == "cpu" else torch.float32
    return torch.stack([total.to(dtype), torch.as_tensor(count, device=total.device).to(dtype)])
