"""Training the tokenizer of BEATs' later iterations from a frozen teacher.

arXiv 2212.09058, section 3.2.2:

    waveforms ──► tokenizer encoder ──► codebook ──► estimator ──► frames (B, P, C)
        └──────► teacher, the encoder of the iteration before ──► frames (B, P, C) ── cosine
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ssl_audio import hub
from ssl_audio.batch import AudioBatch
from ssl_audio.models.encoder import Encoder
from ssl_audio.tasks.adamw import AdamWTask, pair
from ssl_audio.tasks.codebook_usage import codebook_perplexity, codebook_usage
from ssl_audio.tokenizers.distilled import DistilledTokenizer
from ssl_audio.tokenizers.estimator import Distillation, Estimator, distill

log = logging.getLogger(__name__)


class DistillationTask(AdamWTask):
    """Tokenizer, estimator and objective; the teacher stands outside of the module tree.

    Args:
        tokenizer: trained from its present weights; its codebook starts with k-means.
        teacher: frozen, on the tokenizer's clock.
        estimator_layers: of the estimator, which is thrown away afterwards.
        commitment_weight: 1 in the paper, 10 in OpenBEATs.
        alarm_perplexity: a codebook that is used less evenly than this is reported, by every
            validation and at the end.
        optimizer, schedule, max_steps, seed: see ``AdamWTask``.

    Raises:
        ValueError: a teacher on another clock, or an option out of range.
    """

    def __init__(
        self,
        tokenizer: DistilledTokenizer,
        teacher: Encoder,
        *,
        estimator_layers: int,
        commitment_weight: float,
        alarm_perplexity: float,
        optimizer: Mapping[str, Any],
        schedule: Mapping[str, Any],
        max_steps: int,
        seed: int,
    ) -> None:
        super().__init__(optimizer, schedule, max_steps, seed)
        self.save_hyperparameters({"tokenizer": hub.spec(tokenizer), "max_steps": max_steps})
        if teacher.frame_rate != tokenizer.frame_rate:
            raise ValueError(
                f"teacher of kind {teacher.kind} at {teacher.frame_rate:g} Hz: the tokenizer has "
                f"{tokenizer.frame_rate:g} patches a second; choose a BEATs encoder"
            )
        if commitment_weight < 0:
            raise ValueError(f"commitment_weight={commitment_weight}: choose one at 0 or above")
        self.tokenizer = tokenizer
        layers = replace(
            tokenizer.encoder.settings.transformer(), num_layers=estimator_layers, layerdrop=0.0
        )
        self.estimator = Estimator(tokenizer.codebook.dim, layers, teacher.embed_dim)
        self._teacher = (teacher,)  # a tuple hides it from the module tree
        self.commitment_weight = commitment_weight
        self.alarm_perplexity = alarm_perplexity
        self._usage: Tensor | None = None

    @property
    def teacher(self) -> Encoder:
        return self._teacher[0]

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.teacher.to(self.device)

    def training_step(self, batch: AudioBatch, batch_idx: int) -> Tensor:
        self.begin_step(batch)
        losses = self._distill(batch)
        if self._logs_this_step:
            self.log_train(self._sums(losses))
            self.log("train/codebook_perplexity", self.tokenizer.codebook.perplexity())
        clip_loss = self._total(losses).sum(1)
        return self.end_step(clip_loss.sum(), losses.lengths.sum(), clip_loss)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        self.tokenizer.codebook.step(self.global_step)

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        losses = self._distill(batch)
        self.add_valid(self._sums(losses))
        usage = codebook_usage(losses.codes[..., None], self.tokenizer.codebook_size)
        self._usage = usage if self._usage is None else self._usage + usage

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._usage = None

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if self._usage is None:
            return
        usage = self.trainer.strategy.reduce(self._usage, reduce_op="sum")
        perplexity = codebook_perplexity(usage).mean()
        self.log("valid/codebook_perplexity", perplexity, sync_dist=True)
        self._look(float(perplexity), "validation")

    def on_train_end(self) -> None:
        self._look(float(self.tokenizer.codebook.perplexity()), "the last training steps")

    def _look(self, perplexity: float, where: str) -> None:
        if perplexity < self.alarm_perplexity and self.trainer.is_global_zero:
            log.warning(
                "step %d: the codebook collapses: perplexity %.1f of %d codes in %s, below "
                "alarm_perplexity=%g; lower distillation.optimizer.lr or set "
                "tokenizer.distilled.config.revive_below=0.01",
                self.global_step,
                perplexity,
                self.tokenizer.codebook_size,
                where,
                self.alarm_perplexity,
            )

    def _distill(self, batch: AudioBatch) -> Distillation:
        with torch.no_grad():
            targets = self.teacher(batch.waveforms, batch.lengths).frames
        return distill(self.tokenizer, self.estimator, batch.waveforms, batch.lengths, targets)

    def _total(self, losses: Distillation) -> Tensor:
        return losses.similarity + self.commitment_weight * losses.commitment

    @torch.no_grad()
    def _sums(self, losses: Distillation) -> dict[str, Tensor]:
        count = losses.lengths.sum()
        return {
            "loss": pair(self._total(losses).sum(), count),
            "cosine_distance": pair(losses.similarity.sum(), count),
            "commitment": pair(losses.commitment.sum(), count),
        }
