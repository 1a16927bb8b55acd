"""What every pre-training task does around its loss: seed, divide once, agree on the step."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from ssl_audio.batch import AudioBatch, Tokens
from ssl_audio.models.encoder import Encoder
from ssl_audio.tokenizers.tokenizer import Tokenizer

log = logging.getLogger(__name__)


class SummedLossTask(LightningModule):
    """Training steps that return sums, turned into one mean per optimizer step.

    A subclass calls ``begin_step`` first and returns ``end_step(loss_sum, count, clip_loss)`` from
    ``training_step``. The gradient is then the sum over all ranks and micro-batches divided by
    their total count, whatever the number of ranks and the accumulation. Before the optimizer
    moves, all ranks look at the same reduced gradient: when its norm is not finite, all skip.

    Args:
        seed: the run's seed.
        max_skipped_steps: give up after this many non-finite steps in a row.

    Attributes:
        tokenizers: what makes the labels in the step, by name, outside of the module tree; None
            when the batches hold them.
    """

    tokenizers: dict[str, Tokenizer] | None = None

    def __init__(self, seed: int, max_skipped_steps: int = 20) -> None:
        super().__init__()
        self.seed = seed
        self.max_skipped_steps = max_skipped_steps
        self._count: Tensor | None = None
        self._ids: list[str] = []  # of this rank's clips since the last optimizer step
        self._clip_losses: list[Tensor] = []  # theirs, looked at only when something is wrong
        self._skipped_in_a_row = 0

    def begin_step(self, batch: AudioBatch) -> None:
        """Make the global generators (dropout, skips) a function of seed and data position."""
        position = int(batch.sample_index[0])
        torch.manual_seed((self.seed * 1_000_003 + position) % 2**63)
        self._ids.extend(batch.ids)

    def on_fit_start(self) -> None:
        for tokenizer in (self.tokenizers or {}).values():
            tokenizer.to(self.device)

    def tokens_of(self, batch: AudioBatch, name: str) -> Tokens:
        """The batch's tokens of one tokenizer, stored or made now."""
        if self.tokenizers is None:
            assert name in batch.codes, f"batches without stored codes for {name}"
            return batch.codes[name]
        return self.tokenizers[name].encode(batch.waveforms, batch.lengths)

    def end_step(self, loss_sum: Tensor, count: Tensor, clip_loss: Tensor) -> Tensor:
        """Remember how much ``loss_sum`` sums over; undo Lightning's division by accumulation.

        Args:
            loss_sum: () over the micro-batch.
            count: () what the step's total is divided by.
            clip_loss: (B,) to name the clips that made a step non-finite.
        """
        self._clip_losses.append(clip_loss.detach())
        count = count.detach().to(torch.float64 if count.device.type == "cpu" else torch.float32)
        self._count = count if self._count is None else self._count + count
        return loss_sum * self.trainer.accumulate_grad_batches

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        assert self._count is not None, "training_step returned end_step(...)"
        total = self.trainer.strategy.reduce(self._count, reduce_op="sum")
        # DDP has averaged the ranks' sums, hence world_size.
        factor = (self.trainer.world_size / total.clamp(min=1)).float()
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        for gradient in gradients:
            gradient.mul_(factor)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        self.log("train/grad_norm", norm)
        self._skip_unless_finite(norm)
        self._count = None
        self._ids.clear()
        self._clip_losses.clear()

    def _skip_unless_finite(self, norm: Tensor) -> None:
        # Every rank holds the same reduced gradient, so every rank decides alike.
        if torch.isfinite(norm):
            self._skipped_in_a_row = 0
            return
        for parameter in self.parameters():
            parameter.grad = None  # ScaledAdam takes no step without any gradient
        self._skipped_in_a_row += 1
        self._report_skip(norm)
        if self._skipped_in_a_row >= self.max_skipped_steps:
            raise ValueError(
                f"{self._skipped_in_a_row} steps in a row had a gradient that is not finite; "
                "lower task.optimizer.lr or use trainer.precision=32-true, then rerun: the last "
                "checkpoint is good"
            )

    def _report_skip(self, norm: Tensor) -> None:
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and torch.cat(self._clip_losses).isfinite().all():
            if self._skipped_in_a_row == 1:  # fp16's ordinary search for a scale: said once
                log.warning(
                    "step %d skipped on all ranks: its gradient overflows in fp16 at a loss scale "
                    "of %g, which comes down now", self.global_step, scaler.get_scale(),
                )  # fmt: skip
            return
        log.warning(
            "step %d skipped on all ranks: gradient norm %s; rank %d: %s",
            self.global_step, norm.item(), self.global_rank, self._suspects(),
        )  # fmt: skip

    def _suspects(self, shown: int = 8) -> str:
        losses = torch.cat(self._clip_losses).isfinite().tolist()
        bad = [name for name, finite in zip(self._ids, losses, strict=True) if not finite]
        names = ", ".join((bad or self._ids)[:shown]) + (" ..." if len(bad) > shown else "")
        return f"the loss of {names} is not finite" if bad else f"finite losses, of {names}"

    def finished_encoder(self) -> Encoder:
        """What a run of this task exports."""
        assert isinstance(self.encoder, Encoder)
        return self.encoder

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped_in_a_row"] = self._skipped_in_a_row

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._skipped_in_a_row = checkpoint["skipped_in_a_row"]
