"""SD-HuBERT: sentence-level self-distillation of a HuBERT (arXiv 2310.10803).

    waveforms ──► frozen convolutions ──► projected frames ─┬─ view 1 ──► student ──► logits (B, K)
                                                            └─ view 2 ──► teacher ──► logits (B, K)

Each side hears its own perturbed view and answers at the aggregator's position. The teacher's
layers and head are an EMA of the student's; all before the layers is the student's own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ssl_audio import hub
from ssl_audio.batch import AudioBatch
from ssl_audio.models.ema import EMA
from ssl_audio.models.sdhubert import SdHubertEncoder, SentenceHead, reinitialize_last_layers
from ssl_audio.tasks.adamw import AdamWTask, pair
from ssl_audio.tasks.feature_perturbation import Perturbation, PerturbedView
from ssl_audio.tasks.sentence_loss import LogitCenter, sentence_loss


class SdHubertTask(AdamWTask):
    """Student, head, their EMA and objective; the loss is a mean over clips.

    Args:
        encoder: the student; its convolutions and its positional convolution stay as they are.
            Layers are not dropped (``layerdrop`` of its config is for other tasks).
        fresh_layers: last layers that begin with fresh weights (``reinitialize_last_layers``).
        head: ``inner_dim`` and ``num_classes`` of ``SentenceHead``.
        ema_decay: of the teacher, per optimizer step.
        student_temperature, teacher_temperature, center_momentum: see ``sentence_loss``.
        perturbation: arguments of ``Perturbation``.
        optimizer, schedule: see ``AdamWTask``.
        seed: the run's seed.
        max_steps: optimizer steps of the run; read by the trainer.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        encoder: SdHubertEncoder,
        *,
        fresh_layers: int,
        head: Mapping[str, int],
        ema_decay: float,
        student_temperature: float,
        teacher_temperature: float,
        center_momentum: float,
        perturbation: Mapping[str, Any],
        optimizer: Mapping[str, Any],
        schedule: Mapping[str, Any],
        seed: int,
        max_steps: int,
    ) -> None:
        super().__init__(optimizer, schedule, max_steps, seed)
        self.save_hyperparameters({"encoder": hub.spec(encoder), "max_steps": max_steps})
        if not 0 <= fresh_layers <= encoder.num_layers:
            raise ValueError(f"task.fresh_layers={fresh_layers}: choose 0 .. {encoder.num_layers}")
        if min(student_temperature, teacher_temperature) <= 0 or not 0 <= center_momentum <= 1:
            raise ValueError(
                f"task: student_temperature={student_temperature} and teacher_temperature="
                f"{teacher_temperature} are above 0, center_momentum={center_momentum} in 0 .. 1"
            )
        encoder.feature_extractor.requires_grad_(False)
        encoder.encoder.pos_conv_embed.requires_grad_(False)
        encoder.encoder.layerdrop = 0.0
        reinitialize_last_layers(encoder, fresh_layers)
        self.encoder = encoder
        self.head = SentenceHead(encoder.embed_dim, **head)
        self.teacher = EMA(self._followed(), ema_decay)
        self.center = LogitCenter(head["num_classes"], center_momentum)
        self.student_temperature, self.teacher_temperature = (
            student_temperature,
            teacher_temperature,
        )
        self.perturbation = Perturbation(**perturbation)

    def training_step(self, batch: AudioBatch, batch_idx: int) -> Tensor:
        self.begin_step(batch)
        student, teacher = self._logits(batch, "train")
        clip_loss = self._loss(student, teacher, self.center.update(teacher))
        if self._logs_this_step:
            self.log_train(self._sums(clip_loss, teacher))
        count = torch.tensor(len(clip_loss), device=clip_loss.device)
        return self.end_step(clip_loss.sum(), count, clip_loss)

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        student, teacher = self._logits(batch, "valid")
        clip_loss = self._loss(student, teacher, self.center.center)
        self.add_valid(self._sums(clip_loss, teacher))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.teacher.update(self._followed())

    def averaged_encoder(self) -> SdHubertEncoder:
        """The student with the teacher's layers, for probes."""
        encoder = copy.deepcopy(self.encoder)
        encoder.encoder.layers = self.teacher.module["layers"]  # type: ignore[index]
        return encoder

    def _followed(self) -> nn.ModuleDict:
        return nn.ModuleDict({"layers": self.encoder.encoder.layers, "head": self.head})

    def _logits(self, batch: AudioBatch, purpose: str) -> tuple[Tensor, Tensor]:
        """Student's and teacher's (B, K), each for its own view of the clips."""
        features, lengths = self.encoder.features(batch.waveforms, batch.lengths)
        projected, num_frames = self.encoder.project(features, lengths)
        ours, theirs = (
            self._view(batch, projected.shape[1], f"{purpose}/{side}_view")(
                x, self.encoder.masked_spec_embed
            )
            for side, x in (("student", projected), ("teacher", projected.detach()))
        )
        student = self.head(self.encoder.sentence_states(ours, num_frames)[-1][:, 0])
        layers, head = self.teacher.module["layers"], self.teacher.module["head"]  # type: ignore[index]
        with torch.no_grad():
            trunk = self.encoder.encoder
            x, positions = trunk.embed(theirs, num_frames, self.encoder.cls_token)
            teacher = head(trunk.transform(x, positions, layers)[-1][:, 0])
        return student, teacher

    def _view(self, batch: AudioBatch, num_frames: int, purpose: str) -> PerturbedView:
        lengths = self.encoder.num_frames(batch.lengths_on_cpu)
        return self.perturbation.draw(lengths, num_frames, batch.sample_index, self.seed, purpose)

    def _loss(self, student: Tensor, teacher: Tensor, center: Tensor) -> Tensor:
        return sentence_loss(
            student,
            teacher,
            center,
            student_temperature=self.student_temperature,
            teacher_temperature=self.teacher_temperature,
        )

    @torch.no_grad()
    def _sums(self, clip_loss: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Loss, and perplexity of the teacher's classes in a clip and over the clips: the first
        near K or the second near 1 is a collapse."""
        logits = (teacher.float() - self.center.center) / self.teacher_temperature
        shares = logits.softmax(-1)
        sharp, spread = torch.special.entr(shares).sum(-1), torch.special.entr(shares.mean(0)).sum()
        return {
            "loss": pair(clip_loss.sum(), len(clip_loss)),
            "teacher_perplexity": pair(sharp.exp().sum(), len(clip_loss)),
            "class_perplexity": pair(spread.exp(), 1),
        }
