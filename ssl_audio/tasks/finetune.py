"""Fine-tuning an encoder on labelled clips, as BEATs is (arXiv 2212.09058, section 3.3.3).

waveforms ── mixup ──► features ── SpecAugment ──► encoder ──► frames (B, T, D) ──► linear, mean
over a clip's frames ──► cross-entropy (one label a clip) or binary cross-entropy (several)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_audio import hub
from ssl_audio.batch import valid_mask
from ssl_audio.data.labelled_datamodule import LabelledBatch
from ssl_audio.models.beats import BeatsEncoder
from ssl_audio.models.encoder import Encoder
from ssl_audio.probes.metrics.scene import mean_average_precision, top1_accuracy
from ssl_audio.tasks.adamw import AdamWTask, pair
from ssl_audio.tasks.mixup import mixup
from ssl_audio.tasks.spec_augment import spec_augment

# objective -> the metric that chooses the best checkpoint
METRICS = {"single_label": "accuracy", "multi_label": "mean_average_precision"}


class FinetuneTask(AdamWTask):
    """Encoder, linear head and objective.

    Args:
        encoder: trained from its present weights, all layers.
        labels: class names, in the order of the batches' targets.
        objective: "single_label" or "multi_label".
        dropout: on the frames before the head.
        label_smoothing: in [0, 1); for several labels each one is pulled to 0.5.
        mixup: arguments of ``mixup``, or None.
        spec_augment: arguments of ``spec_augment``, or None.
        layer_decay: the learning rate of layer i of L is ``layer_decay ** (L - i)`` of the head's.
        optimizer, schedule, max_steps, seed: see ``AdamWTask``.

    Raises:
        ValueError: an unknown objective, or a layer decay for an encoder without ``layer_of``.
    """

    def __init__(
        self,
        encoder: Encoder,
        labels: tuple[str, ...],
        *,
        objective: str,
        dropout: float,
        label_smoothing: float,
        mixup: Mapping[str, Any] | None,
        spec_augment: Mapping[str, Any] | None,
        layer_decay: float,
        optimizer: Mapping[str, Any],
        schedule: Mapping[str, Any],
        max_steps: int,
        seed: int,
    ) -> None:
        super().__init__(optimizer, schedule, max_steps, seed)
        self.save_hyperparameters({"encoder": hub.spec(encoder), "max_steps": max_steps})
        if objective not in METRICS:
            raise ValueError(f"task.objective={objective}: choose one of {', '.join(METRICS)}")
        if layer_decay != 1.0 and not isinstance(encoder, BeatsEncoder):
            raise ValueError(
                f"task.layer_decay={layer_decay}: an encoder of kind {encoder.kind} does not tell "
                "its layers apart; set it to 1.0"
            )
        self.encoder = encoder
        self.head = nn.Linear(encoder.embed_dim, len(labels))
        self.labels, self.objective, self.layer_decay = labels, objective, layer_decay
        self.dropout, self.label_smoothing = dropout, label_smoothing
        self.mixup, self.spec_augment = mixup, spec_augment
        self._scores: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def metric(self) -> str:
        """What ``valid/score`` and ``test/score`` are."""
        return METRICS[self.objective]

    # ---- one micro-batch

    def training_step(self, batch: LabelledBatch, batch_idx: int) -> Tensor:
        self.begin_step(batch)
        waveforms, targets = batch.waveforms, batch.targets
        if self.mixup is not None:
            waveforms, targets = mixup(
                waveforms, targets, batch.sample_index, self.seed, **self.mixup
            )
        features, lengths = self.encoder.features(waveforms, batch.lengths)
        if self.spec_augment is not None:
            features = spec_augment(
                features, lengths.cpu(), batch.sample_index, self.seed, **self.spec_augment
            )
        losses = self._losses(self._logits(features, lengths), targets)
        self.log_train({"loss": pair(losses.sum(), len(losses))})
        return self.end_step(losses.sum(), torch.tensor(len(losses), device=losses.device), losses)

    def _logits(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, C) float32: the head's mean over each clip's frames."""
        out = self.encoder.forward_features(features, lengths)
        frames = functional.dropout(out.frames, self.dropout, self.training)
        scores = self.head(frames).float()
        valid = valid_mask(out.lengths, scores.shape[1])[..., None]
        return scores.masked_fill(~valid, 0.0).sum(1) / out.lengths.clamp_min(1)[:, None]

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B,) nats; of several labels the mean."""
        smoothing = self.label_smoothing if self.training else 0.0
        if self.objective == "single_label":
            return functional.cross_entropy(
                logits, targets, reduction="none", label_smoothing=smoothing
            )
        targets = targets * (1.0 - smoothing) + 0.5 * smoothing
        return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(
            1
        )

    # ---- validation and test

    def validation_step(self, batch: LabelledBatch, batch_idx: int) -> None:
        self._evaluate(batch)

    def test_step(self, batch: LabelledBatch, batch_idx: int) -> None:
        self._evaluate(batch)

    def _evaluate(self, batch: LabelledBatch) -> None:
        logits = self._logits(*self.encoder.features(batch.waveforms, batch.lengths))
        losses = self._losses(logits, batch.targets)
        self.add_valid({"loss": pair(losses.sum(), len(losses))})
        self._scores.append((batch.sample_index, logits.cpu(), batch.targets.cpu()))

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._scores = []

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._log_score("valid")

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def on_test_epoch_end(self) -> None:
        self._log_score("test")

    def _log_score(self, split: str) -> None:
        """One score over all ranks' clips, each counted once."""
        if not self._scores:
            return
        num_clips = len(self.trainer.datamodule.segments)  # type: ignore[attr-defined]
        table = torch.zeros(num_clips, 2 * len(self.labels) + 1)
        for index, logits, targets in self._scores:
            table[index] = torch.cat([logits, targets, torch.ones(len(index), 1)], 1)
        table = self.trainer.strategy.reduce(table.to(self.device), reduce_op="sum").cpu()
        table = table[table[:, -1] > 0]  # a clip that two ranks had only weighs the same twice
        scores, targets = (table[:, :-1] / table[:, -1:]).chunk(2, dim=1)
        measure = top1_accuracy if self.metric == "accuracy" else mean_average_precision
        score = measure(scores.numpy(), targets.numpy())
        for name in (self.metric, "score"):
            self.log(f"{split}/{name}", score, prog_bar=name != "score", sync_dist=True)

    # ---- optimisation

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group for each depth of the encoder, the head's last."""
        lr = self.optimizer_config["lr"]
        groups: dict[int, list[nn.Parameter]] = {}
        for name, parameter in self.encoder.named_parameters():
            groups.setdefault(self._steps_below_head(name), []).append(parameter)
        groups.setdefault(0, []).extend(self.head.parameters())
        return [
            {"params": groups[steps], "lr": lr * self.layer_decay**steps}
            for steps in sorted(groups, reverse=True)
        ]

    def _steps_below_head(self, name: str) -> int:
        if not isinstance(self.encoder, BeatsEncoder):
            return 0
        return max(0, self.encoder.num_layers - self.encoder.layer_of(name))
