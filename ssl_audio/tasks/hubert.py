"""HuBERT: predict the k-means units of masked frames (arXiv 2106.07447).

waveforms ── tokenizer ──► units (B, T)
    └─ convolutions ── spans masked ── Transformer ──► frames ── cosine to unit embeddings ──►
       cross-entropy over masked frames
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_audio import hub
from ssl_audio.batch import IGNORE_CODE, AudioBatch, valid_mask
from ssl_audio.models.hubert import HubertEncoder
from ssl_audio.models.scale_gradient import scale_gradient
from ssl_audio.tasks.adamw import AdamWTask, pair
from ssl_audio.tasks.alignment import align_codes, frame_ratio
from ssl_audio.tasks.codebook_usage import codebook_perplexity, codebook_usage
from ssl_audio.tasks.masking import span_mask
from ssl_audio.tasks.spear import SpanMask, TokenSpec
from ssl_audio.tasks.spear_loss import TeacherLoss, teacher_loss
from ssl_audio.tokenizers.tokenizer import Tokenizer


class UnitHead(nn.Module):
    """Scaled cosine between projected frames and one embedding per unit (equation 3).

    Args:
        dim: D of the frames.
        num_units: K.
        projection_dim: in which they are compared.
        temperature: of the cosine.
    """

    def __init__(self, dim: int, num_units: int, projection_dim: int, temperature: float) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, projection_dim)
        # Centred, unlike the original's uniform in 0 .. 1, where all units begin in one direction.
        self.embedding = nn.Parameter(torch.empty(num_units, projection_dim).normal_())
        self.temperature = temperature

    def forward(self, frames: Tensor) -> Tensor:
        """(..., D) to float32 logits (..., K)."""
        with torch.autocast(frames.device.type, enabled=False):
            projected = F.normalize(self.projection(frames.float()), dim=-1)
            return projected @ F.normalize(self.embedding, dim=-1).T / self.temperature


class HubertTask(AdamWTask):
    """Encoder, unit head and objective.

    Args:
        encoder: trained from its present weights.
        tokens: one entry, the units' shape; one codebook.
        tokenizers: the same key to what makes the units; None when they are stored in the batches.
        time_mask: ``SpanMask`` arguments, over frames.
        projection_dim, temperature: of ``UnitHead``.
        unmasked_weight: of the frames that are not masked.
        feature_penalty: weight of the convolutions' mean square, per masked frame (fairseq's 10).
        conv_gradient: factor of the gradient into the convolutions.
        optimizer, schedule: see ``AdamWTask``.
        seed: the run's seed.
        max_steps: optimizer steps of the run; read by the trainer.

    Raises:
        ValueError: units of another shape or rate, or an argument out of range.
    """

    def __init__(
        self,
        encoder: HubertEncoder,
        tokens: Mapping[str, TokenSpec],
        tokenizers: Mapping[str, Tokenizer] | None,
        *,
        time_mask: Mapping[str, Any],
        projection_dim: int,
        temperature: float,
        unmasked_weight: float,
        feature_penalty: float,
        conv_gradient: float,
        optimizer: Mapping[str, Any],
        schedule: Mapping[str, Any],
        seed: int,
        max_steps: int,
    ) -> None:
        super().__init__(optimizer, schedule, max_steps, seed)
        self.save_hyperparameters({"encoder": hub.spec(encoder), "max_steps": max_steps})
        if len(tokens) != 1 or temperature <= 0 or min(unmasked_weight, feature_penalty) < 0:
            raise ValueError(
                f"HuBERT needs the units of one tokenizer, got {sorted(tokens)}; temperature="
                f"{temperature} is above 0, unmasked_weight={unmasked_weight} and "
                f"feature_penalty={feature_penalty} are not below it"
            )
        ((self.name, self.spec),) = tokens.items()
        if self.spec.num_codebooks * frame_ratio(encoder.frame_rate, self.spec.frame_rate).fold > 1:
            raise ValueError(
                f"tokenizer {self.name!r} gives several codes for a frame of the encoder; HuBERT "
                "predicts one: choose a tokenizer with one codebook, at 50 Hz or below"
            )
        self.encoder = encoder
        self.head = UnitHead(
            encoder.embed_dim, self.spec.codebook_size, projection_dim, temperature
        )
        self.tokenizers = dict(tokenizers) if tokenizers else None
        self.time_mask = SpanMask(**time_mask)
        self.unmasked_weight, self.feature_penalty = unmasked_weight, feature_penalty
        self.conv_gradient = conv_gradient

    def training_step(self, batch: AudioBatch, batch_idx: int) -> Tensor:
        self.begin_step(batch)
        loss, penalty, units = self._predict(batch, "train")
        if self._logs_this_step:
            self.log_train(self._sums(loss, penalty, units))
        num_masked = loss.masked.num_frames
        total = loss.masked.loss + self.unmasked_weight * loss.unmasked.loss
        total = total + self.feature_penalty * penalty * num_masked
        return self.end_step(total, num_masked, loss.clip_loss)

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        self.add_valid(self._sums(*self._predict(batch, "valid")))

    def _predict(self, batch: AudioBatch, purpose: str) -> tuple[TeacherLoss, Tensor, Tensor]:
        """Loss by masked and unmasked frames, the convolutions' mean square, units (B, T, 1)."""
        features, lengths = self.encoder.features(batch.waveforms, batch.lengths)
        x, num_frames = self.encoder.convolve(features, lengths)
        valid = valid_mask(self.encoder.num_frames(lengths), x.shape[1])
        penalty = (x.float().square().mean(-1) * valid).sum() / valid.sum().clamp_min(1)
        x = self.encoder.feature_projection(scale_gradient(x, self.conv_gradient))
        mask = self._mask(batch, x.shape[1], purpose).to(x.device)
        frames = self.encoder.encoder(self.encoder.masked(x, mask), num_frames)[-1]
        rates = self.encoder.frame_rate, self.spec.frame_rate
        units = align_codes(self.tokens_of(batch, self.name), x.shape[1], *rates)
        units = units.masked_fill(~valid[..., None], IGNORE_CODE)
        loss, _ = teacher_loss(self.head(frames)[:, :, None], units, mask)
        return loss, penalty, units

    def _mask(self, batch: AudioBatch, num_frames: int, purpose: str) -> Tensor:
        return span_mask(
            self.encoder.num_frames(batch.lengths_on_cpu),
            self.time_mask.prob,
            self.time_mask.span,
            batch.sample_index,
            self.seed,
            purpose=f"{purpose}/time_mask",
            min_masks=self.time_mask.min_masks,
            max_length=num_frames,
        )

    @torch.no_grad()
    def _sums(self, loss: TeacherLoss, penalty: Tensor, units: Tensor) -> dict[str, Tensor]:
        """What is logged of a micro-batch: name to (sum, count)."""
        masked, unmasked = loss.masked, loss.unmasked
        usage = codebook_usage(units, self.spec.codebook_size)
        return {
            "loss": pair(masked.loss, masked.num_frames),
            "unmasked_loss": pair(unmasked.loss, unmasked.num_frames),
            "masked_accuracy": pair(masked.num_correct.sum(), masked.num_codes.sum()),
            "feature_penalty": pair(penalty, 1),
            "unit_perplexity": pair(codebook_perplexity(usage).mean(), 1),
        }
