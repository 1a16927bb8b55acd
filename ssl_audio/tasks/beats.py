"""BEATs pre-training: predict the tokenizer's codes of the patches that the encoder does not see.

arXiv 2212.09058, section 3.3; OpenBEATs, arXiv 2507.14129. One micro-batch, at 50 patches a second:

    waveforms (B, S) ── tokenizer ──► codes (B, P)
        └─ log-mel ── patches (B, P, C) ── 25 % kept ──► encoder (B, V, C)
                                                            │ put back, placeholders elsewhere
    cross-entropy over hidden patches ◄── label predictor ◄─┘

Masks are a function of the seed and of a clip's place in the data plan, so neither ranks,
accumulation nor a resume change what a clip sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ssl_audio import hub
from ssl_audio.batch import IGNORE_CODE, AudioBatch
from ssl_audio.models.beats import BeatsEncoder, TransformerConfig
from ssl_audio.models.encoder import Encoder
from ssl_audio.models.label_predictor import LabelPredictor, predictor_layers
from ssl_audio.tasks.adamw import AdamWTask, pair
from ssl_audio.tasks.alignment import align_codes
from ssl_audio.tasks.codebook_usage import codebook_perplexity, codebook_usage
from ssl_audio.tasks.patch_masking import (
    PatchMask,
    check_mask_ratio,
    draw_patch_mask,
    gather_patches,
)
from ssl_audio.tasks.spear import TokenSpec
from ssl_audio.tokenizers.tokenizer import Tokenizer

POSITIONS = ("compact", "original")


@dataclass(frozen=True, slots=True)
class Prediction:
    """A micro-batch: features (B, T, 128), the mask, codes (B, P), and of the hidden patches the
    logits (M, K), targets (M,) and losses (M,) in nats, 0 where there is no target."""

    features: Tensor
    mask: PatchMask
    codes: Tensor
    logits: Tensor
    targets: Tensor
    losses: Tensor


class BeatsTask(AdamWTask):
    """Encoder, label predictor and objective; the tokenizer stands outside of the module tree.

    Args:
        encoder: trained from its present weights.
        tokens: one entry, the labels' shape: one codebook on the encoder's clock.
        tokenizers: the same key to what makes the labels; None when they are stored in the batches.
        mask_ratio: share of the patches that are hidden.
        placeholder: "zero" or "learned", see ``LabelPredictor``.
        positions: what the encoder is told of the places of visible patches: "compact" treats them
            as neighbours, as OpenBEATs does; "original" keeps their distances.
        label_smoothing: in [0, 1).
        predictor_layers, predictor_dim: of the label predictor.
        optimizer, schedule, max_steps, seed: see ``AdamWTask``.

    Raises:
        ValueError: an encoder, labels or an option that do not fit.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokens: Mapping[str, TokenSpec],
        tokenizers: Mapping[str, Tokenizer] | None,
        *,
        mask_ratio: float,
        placeholder: str,
        positions: str,
        label_smoothing: float,
        predictor_layers: int,
        predictor_dim: int,
        optimizer: Mapping[str, Any],
        schedule: Mapping[str, Any],
        max_steps: int,
        seed: int,
    ) -> None:
        super().__init__(optimizer, schedule, max_steps, seed)
        self.save_hyperparameters({"encoder": hub.spec(encoder), "max_steps": max_steps})
        if not isinstance(encoder, BeatsEncoder) or encoder.settings.padding != "exact":
            raise ValueError("model: masked prediction trains kind=beats with padding=exact")
        if positions not in POSITIONS:
            raise ValueError(f"task.positions={positions}: choose one of {', '.join(POSITIONS)}")
        check_mask_ratio(mask_ratio)
        self.name, self.spec = _only(tokens, encoder.frame_rate)
        self.encoder = encoder
        layers = _layers(encoder, predictor_dim, predictor_layers)
        self.predictor = LabelPredictor(
            encoder.embed_dim, self.spec.codebook_size, layers, placeholder
        )
        self.tokenizers = dict(tokenizers) if tokenizers is not None else None
        self.mask_ratio, self.label_smoothing = mask_ratio, label_smoothing
        self.keeps_positions = positions == "original"
        self._usage: Tensor | None = None
        self._figures: dict[str, Any] = {}

    # ---- one micro-batch

    def training_step(self, batch: AudioBatch, batch_idx: int) -> Tensor:
        self.begin_step(batch)
        prediction = self._predict(batch, "train")
        if self._logs_this_step:
            self.log_train(_sums(prediction))
        count = (prediction.targets != IGNORE_CODE).sum()
        return self.end_step(prediction.losses.sum(), count, _clip_losses(prediction))

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        prediction = self._predict(batch, "valid")
        self.add_valid(_sums(prediction))
        usage = codebook_usage(prediction.codes[..., None], self.spec.codebook_size)
        self._usage = usage if self._usage is None else self._usage + usage
        if batch_idx == 0:
            self._figures = self._first_clip(prediction)

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._usage = None

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if self._usage is not None:
            self._usage = self.trainer.strategy.reduce(self._usage, reduce_op="sum")
            perplexity = codebook_perplexity(self._usage).mean()
            self.log("valid/target_perplexity", perplexity, sync_dist=True)

    def last_figures(self) -> dict[str, Any]:
        """First clip of the last validation, for pictures: ``features`` (T, 128), ``codes`` and
        ``predicted`` (P / 8, 8) of the hidden patches, ``usage`` (1, K) of the codes."""
        return {**self._figures, "usage": {self.name: self._usage}} if self._figures else {}

    def _predict(self, batch: AudioBatch, purpose: str) -> Prediction:
        """Drop patches, encode the others, predict; masks of "train" and "valid" differ."""
        features, feature_lengths = self.encoder.features(batch.waveforms, batch.lengths)
        patches, lengths = self.encoder.patchify(features, feature_lengths)
        mask = self._mask(batch, patches.shape[1], purpose).to(patches.device)
        out = self.encoder.encode_patches(
            gather_patches(patches, mask.positions),
            mask.num_visible,
            mask.positions if self.keeps_positions else None,
            patches.shape[1],
        )
        logits = self.predictor(out.frames, mask.visible, lengths, mask.masked)
        rate = self.encoder.frame_rate
        codes = align_codes(self.tokens_of(batch, self.name), patches.shape[1], rate, rate)[..., 0]
        targets = codes.flatten()[mask.masked]
        losses = masked_prediction_loss(logits, targets, self.label_smoothing)
        return Prediction(features, mask, codes, logits, targets, losses)

    def _mask(self, batch: AudioBatch, num_patches: int, purpose: str) -> PatchMask:
        return draw_patch_mask(
            self.encoder.num_frames(batch.lengths_on_cpu),
            batch.sample_index,
            self.seed,
            mask_ratio=self.mask_ratio,
            purpose=f"{purpose}/patch_mask",
            num_patches=num_patches,
        )

    def _first_clip(self, prediction: Prediction) -> dict[str, Any]:
        codes = torch.full_like(prediction.codes, IGNORE_CODE).flatten()
        predicted = codes.clone()
        codes[prediction.mask.masked] = prediction.targets
        predicted[prediction.mask.masked] = prediction.logits.argmax(-1)
        shape = (*prediction.codes.shape, 1)
        rows = {
            name: self.encoder.time_rows(x.view(shape))[0, ..., 0].cpu()
            for name, x in (("codes", codes), ("predicted", predicted))
        }
        figures: dict[str, Any] = {name: {self.name: x} for name, x in rows.items()}
        return {"features": prediction.features[0].cpu(), **figures}


def masked_prediction_loss(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy (M,) in nats of ``logits`` (M, K), 0 where ``targets`` is ``IGNORE_CODE``."""
    return functional.cross_entropy(
        logits,
        targets,
        ignore_index=IGNORE_CODE,
        reduction="none",
        label_smoothing=label_smoothing,
    )


def _clip_losses(prediction: Prediction) -> Tensor:
    """(B,) summed loss of each clip."""
    num_clips, num_patches = prediction.codes.shape
    clip = prediction.mask.masked // num_patches
    losses = prediction.losses.detach()
    return losses.new_zeros(num_clips).index_add(0, clip, losses)


@torch.no_grad()
def _sums(prediction: Prediction) -> dict[str, Tensor]:
    """What is logged of a micro-batch: name to (sum, count)."""
    count = (prediction.targets != IGNORE_CODE).sum()
    correct = (prediction.logits.argmax(-1) == prediction.targets).sum()
    return {
        "loss": pair(prediction.losses.sum(), count),
        "masked_accuracy": pair(correct, count),
    }


def _only(tokens: Mapping[str, TokenSpec], frame_rate: float) -> tuple[str, TokenSpec]:
    if len(tokens) == 1:
        ((name, spec),) = tokens.items()
        if spec.num_codebooks == 1 and spec.frame_rate == frame_rate:
            return name, spec
    raise ValueError(
        f"BEATs predicts the codes of one tokenizer with one codebook at the encoder's "
        f"{frame_rate:g} patches a second; got {dict(tokens)}"
    )


def _layers(encoder: BeatsEncoder, dim: int, num_layers: int) -> TransformerConfig:
    try:
        return predictor_layers(encoder.settings.transformer(), dim, num_layers)
    except ValueError as error:
        raise ValueError(
            f"task.predictor_dim={dim}, task.predictor_layers={num_layers}: {error}"
        ) from error
