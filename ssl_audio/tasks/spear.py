"""SPEAR pre-training: predict the tokens of frozen teachers from masked log-mel features.

arXiv 2510.25955. The shapes on the way of one micro-batch, for a 50 Hz student:

    waveforms (B, S) ── teachers' tokenizers ──► codes (B, T_teacher, N) per teacher
        │ utterance and token mixing
        ▼
    log-mel (B, ~S / 160, M) ── channel and time masks ──► encoder ──► frames (B, T, D)
                                                                        │ one head per teacher
    summed cross-entropy over frames, divided once per optimizer step ◄─┘ logits (B, T, N, K)

All randomness is a function of the seed and of a clip's place in the data plan, so a resumed run
needs no generator state, and neither ranks nor accumulation change what a clip sees.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from ssl_audio import hub
from ssl_audio.batch import IGNORE_CODE, AudioBatch, Tokens
from ssl_audio.data.mixing import mix_tokens, mix_utterances
from ssl_audio.models.encoder import Encoder
from ssl_audio.models.heads import CodebookHeads
from ssl_audio.models.zipformer.model import FEATURE_RATE_HZ, Zipformer
from ssl_audio.optim.scaled_adam import ScaledAdam
from ssl_audio.optim.schedules import eden_lr
from ssl_audio.tasks.alignment import align_codes, frame_ratio
from ssl_audio.tasks.codebook_usage import codebook_perplexity, codebook_usage
from ssl_audio.tasks.masking import mask_features, output_mask, span_mask
from ssl_audio.tasks.spear_loss import STRATEGIES, SpearLoss, spear_loss
from ssl_audio.tasks.step import SummedLossTask
from ssl_audio.tasks.weight_average import WeightAverage
from ssl_audio.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TokenSpec:
    """Shape of one teacher's codes: (T, ``num_codebooks``) at ``frame_rate`` Hz."""

    num_codebooks: int
    codebook_size: int
    frame_rate: float


@dataclass(frozen=True, slots=True)
class SpanMask:
    """Spans of ``span`` positions covering about ``prob`` of the axis, overlaps counted twice."""

    prob: float
    span: int
    min_masks: int = 0


@dataclass(frozen=True, slots=True)
class Prediction:
    """One micro-batch as the student saw it: features (B, T_in, M), masks and targets (B, T, N)."""

    features: Tensor
    time_mask: Tensor
    logits: dict[str, Tensor]
    targets: dict[str, Tensor]
    loss: SpearLoss


class SpearTask(SummedLossTask):
    """Student, prediction heads and objective; teachers stand outside of the module tree.

    Args:
        encoder: the student.
        tokens: shape of each teacher's codes, keys "speech" and/or "audio".
        tokenizers: frozen, for ``tokens=online``: teacher name to tokenizer. None when the codes
            come stored in the batches. They are neither trained, saved nor part of a DDP graph.
        strategy, audio_weight, masked_weight: see ``spear_loss`` (lambda and alpha of the paper).
        time_mask, channel_mask: ``SpanMask`` arguments, over feature frames and mel channels.
        token_mixing: arguments of ``mix_tokens``, or None.
        utterance_mixing: arguments of ``mix_utterances``, or None.
        optimizer: arguments of ``ScaledAdam``.
        schedule: arguments of ``eden_lr``, with ``lr_hours`` in hours of audio.
        schedule_batch_sec: the encoder's own schedules count batches of this many seconds.
        average: ``every`` and ``steps`` of the ``WeightAverage`` that the run exports, or None for
            the last step's weights.
        batch_sec: seconds of audio in one micro-batch; turns steps into hours and into batches.
        seed: the run's seed.
        max_steps: optimizer steps of the run; read by the trainer.

    Raises:
        ValueError: unknown teachers or strategy, or a teacher whose rate does not fit.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokens: Mapping[str, TokenSpec],
        tokenizers: Mapping[str, Tokenizer] | None,
        *,
        strategy: str,
        audio_weight: float,
        masked_weight: float,
        time_mask: Mapping[str, Any],
        channel_mask: Mapping[str, Any],
        token_mixing: Mapping[str, Any] | None,
        utterance_mixing: Mapping[str, Any] | None,
        optimizer: Mapping[str, Any],
        schedule: Mapping[str, Any],
        schedule_batch_sec: float,
        average: Mapping[str, int] | None,
        batch_sec: float,
        seed: int,
        max_steps: int,
    ) -> None:
        super().__init__(seed)
        self.save_hyperparameters({"encoder": hub.spec(encoder), "max_steps": max_steps})
        if not isinstance(encoder, Zipformer):
            raise ValueError(f"model.kind={encoder.kind}: SPEAR trains a zipformer")
        if strategy not in STRATEGIES or not set(tokens) <= {"speech", "audio"}:
            raise ValueError(
                f"task.strategy={strategy} with teachers {', '.join(tokens)}: choose one of "
                f"{', '.join(STRATEGIES)}, and teachers named speech and audio"
            )
        self.encoder = encoder
        self.heads = nn.ModuleDict(
            {
                name: CodebookHeads(
                    encoder.embed_dim,
                    spec.num_codebooks * frame_ratio(encoder.frame_rate, spec.frame_rate).fold,
                    spec.codebook_size,
                )
                for name, spec in tokens.items()
            }
        )
        # N(0, 1) as in the released code; its width is that of the student's features.
        self.mask_embedding = nn.Parameter(torch.randn(encoder.config["num_mel_bins"]))
        self.tokens = dict(tokens)
        self.tokenizers = dict(tokenizers) if tokenizers is not None else None
        self.strategy, self.audio_weight, self.masked_weight = strategy, audio_weight, masked_weight
        self.time_mask, self.channel_mask = SpanMask(**time_mask), SpanMask(**channel_mask)
        self.token_mixing, self.utterance_mixing = token_mixing, utterance_mixing
        self.optimizer_config, self.schedule = dict(optimizer), dict(schedule)
        self.batch_sec, self.schedule_batch_sec = batch_sec, schedule_batch_sec
        self.average = None if average is None else WeightAverage(**average, max_steps=max_steps)
        self._usage: dict[str, Tensor] = {}
        self._valid_sums: dict[str, Tensor] = {}
        self._figures: dict[str, Any] = {}

    # ---- one micro-batch

    def training_step(self, batch: AudioBatch, batch_idx: int) -> Tensor:
        self.begin_step(batch)
        self.encoder.set_batch_count(self.global_step * self._step_sec() / self.schedule_batch_sec)
        codes = self._codes(batch)
        batch, codes = self._mix(batch, codes)
        loss = self._predict(batch, codes, "train").loss
        if self.global_step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._log(_sums(loss), "train")
        clip_loss = sum(teacher.clip_loss for teacher in loss.teachers.values())
        assert isinstance(clip_loss, Tensor)
        return self.end_step(loss.total, loss.num_frames, clip_loss)

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        prediction = self._predict(batch, self._codes(batch), "valid")
        for name, sums in _sums(prediction.loss).items():
            self._valid_sums[name] = self._valid_sums.get(name, torch.zeros_like(sums)) + sums
        for name, spec in self.tokens.items():
            usage = codebook_usage(prediction.targets[name], spec.codebook_size)
            self._usage[name] = self._usage.get(name, torch.zeros_like(usage)) + usage
        if batch_idx == 0:
            self._figures = _first_clip(prediction)

    def on_validation_epoch_start(self) -> None:
        self._usage, self._valid_sums = {}, {}

    def on_validation_epoch_end(self) -> None:
        reduce = self.trainer.strategy.reduce
        means = {name: reduce(x, reduce_op="sum") for name, x in self._valid_sums.items()}
        self._log(means, "valid")
        for name, usage in self._usage.items():
            total = self._usage[name] = reduce(usage, reduce_op="sum")
            perplexity, used = codebook_perplexity(total).mean(), (total > 0).float().mean()
            self.log(f"valid/{name}/target_perplexity", perplexity, sync_dist=True)
            self.log(f"valid/{name}/codes_used", used, sync_dist=True)

    def last_figures(self) -> dict[str, Any]:
        """First clip of the last validation, for pictures.

        ``features`` (T_in, M), ``mask`` (T_in,), ``codes`` and ``predicted`` by teacher (T, N),
        ``usage`` by teacher (N, K); empty before the first validation.
        """
        return {**self._figures, "usage": self._usage} if self._figures else {}

    def _codes(self, batch: AudioBatch) -> dict[str, Tokens]:
        """Teacher codes of the clean batch, length 0 where a clip does not need that teacher."""
        if self.tokenizers is None:
            missing = sorted(set(self.tokens) - set(batch.codes))
            assert not missing, f"batches without stored codes for {missing}"
            return {name: batch.codes[name] for name in self.tokens}
        return {name: self._encode(name, batch) for name in self.tokens}

    def _encode(self, name: str, batch: AudioBatch) -> Tokens:
        assert self.tokenizers is not None
        domains = torch.tensor(STRATEGIES[self.strategy][name], device=batch.domains.device)
        clips = torch.isin(batch.domains, domains).nonzero()[:, 0]
        if len(clips) == 0:
            empty = batch.lengths.new_full((len(batch), 0, self.tokens[name].num_codebooks), 0)
            return Tokens(empty, torch.zeros_like(batch.lengths))
        with torch.no_grad():
            tokens = self.tokenizers[name].encode(batch.waveforms[clips], batch.lengths[clips])
        codes = tokens.codes.new_full((len(batch), *tokens.codes.shape[1:]), IGNORE_CODE)
        lengths = torch.zeros_like(batch.lengths)
        codes[clips], lengths[clips] = tokens.codes, tokens.lengths
        return Tokens(codes, lengths)

    def _mix(
        self, batch: AudioBatch, codes: dict[str, Tokens]
    ) -> tuple[AudioBatch, dict[str, Tokens]]:
        if self.utterance_mixing is not None:
            batch = mix_utterances(batch, seed=self.seed, **self.utterance_mixing)
        if self.token_mixing is not None:
            rates = {name: spec.frame_rate for name, spec in self.tokens.items()}
            batch, codes = mix_tokens(batch, codes, rates, seed=self.seed, **self.token_mixing)
        return batch, codes

    def _predict(self, batch: AudioBatch, codes: Mapping[str, Tokens], purpose: str) -> Prediction:
        """Mask, encode, classify and compare; masks of ``purpose`` "train" and "valid" differ."""
        features, feature_lengths = self.encoder.features(batch.waveforms, batch.lengths)
        time_mask, channel_mask = self._masks(batch, features, purpose)
        masked = mask_features(features, time_mask, channel_mask, self.mask_embedding)
        output = self.encoder.forward_features(masked, feature_lengths)
        num_frames = output.frames.shape[1]
        targets = {
            name: align_codes(codes[name], num_frames, self.encoder.frame_rate, spec.frame_rate)
            for name, spec in self.tokens.items()
        }
        logits = {name: head(output.frames) for name, head in self.heads.items()}
        subsampling = round(FEATURE_RATE_HZ / self.encoder.frame_rate)
        loss = spear_loss(
            logits,
            targets,
            batch.domains,
            output.lengths,
            mask=output_mask(time_mask, subsampling, num_frames),
            strategy=self.strategy,
            alpha=self.masked_weight,
            audio_scale=self.audio_weight,
        )
        return Prediction(features, time_mask, logits, targets, loss)

    def _masks(self, batch: AudioBatch, features: Tensor, purpose: str) -> tuple[Tensor, Tensor]:
        """Time mask (B, T_in) and channel mask (B, M), drawn on the CPU."""
        assert self.encoder.fbank is not None, "a student has a front end"
        lengths = self.encoder.fbank.num_frames(batch.lengths_on_cpu)
        channels = torch.full_like(lengths, features.shape[2])
        masks = [
            span_mask(
                sizes,
                spans.prob,
                spans.span,
                batch.sample_index,
                self.seed,
                purpose=f"{purpose}/{axis}_mask",
                min_masks=spans.min_masks,
                max_length=extent,
            ).to(features.device, non_blocking=True)
            for axis, sizes, spans, extent in (
                ("time", lengths, self.time_mask, features.shape[1]),
                ("channel", channels, self.channel_mask, features.shape[2]),
            )
        ]
        return masks[0], masks[1]

    # ---- optimisation

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = ScaledAdam(trained, **self.optimizer_config)
        base_lr = self.optimizer_config["lr"]
        schedule = {k: v for k, v in self.schedule.items() if k != "lr_hours"}

        def factor(step: int) -> float:
            hours = step * self._step_sec() / 3600
            lr_hours = self.schedule["lr_hours"]
            return eden_lr(1.0, step, hours, lr_epochs=lr_hours, **schedule)

        assert base_lr > 0
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is not None and self.global_rank == 0:  # the rank that writes checkpoints
            self.average.update(self.encoder, self.global_step + 1)

    def finished_encoder(self) -> Encoder:
        if self.average is None or not self.average.weights:
            return self.encoder
        encoder = copy.deepcopy(self.encoder)
        encoder.load_state_dict(self.average.weights)
        return encoder

    def _step_sec(self) -> float:
        """Seconds of audio in one optimizer step, over all ranks."""
        return self.batch_sec * self.trainer.world_size * self.trainer.accumulate_grad_batches

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["encoder_training_state"] = self.encoder.training_state()
        if self.average is not None:
            checkpoint["encoder_average"] = self.average.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.encoder.load_training_state(checkpoint["encoder_training_state"])
        if self.average is not None:
            self.average.load_state_dict(checkpoint["encoder_average"])

    # ---- logging

    def _log(self, sums: Mapping[str, Tensor], prefix: str) -> None:
        """Means of ``sums`` (sum, count); what nothing counts towards is left out.

        Of this rank's micro-batch in training; in validation the sums are those of all ranks
        already, and ``sync_dist`` only says that we know.
        """
        sync = prefix == "valid"
        for name, (total, count) in sums.items():
            if count > 0:
                self.log(f"{prefix}/{name}", total / count, sync_dist=sync)
        total, count = sums["loss"]
        if count > 0:
            mean = total / count
            self.log(f"{prefix}_loss", mean, prog_bar=True, logger=False, sync_dist=sync)


def _sums(loss: SpearLoss) -> dict[str, Tensor]:
    """What is logged of a micro-batch: name to (sum, count)."""
    sums = {"loss": _pair(loss.total, loss.num_frames)}
    for name, teacher in loss.teachers.items():
        for part, frames in (("masked", teacher.masked), ("unmasked", teacher.unmasked)):
            sums[f"{name}/{part}_loss"] = _pair(frames.loss, frames.num_frames)
        right, of = teacher.masked.num_correct, teacher.masked.num_codes
        sums[f"{name}/masked_accuracy"] = _pair(right.sum(), of.sum())
        for codebook in range(len(right)):
            sums[f"{name}/masked_accuracy_per_codebook/{codebook:02d}"] = _pair(
                right[codebook], of[codebook]
            )
    return sums


def _pair(total: Tensor, count: Tensor) -> Tensor:
    return torch.stack([total.detach().double(), count.double()])


def _first_clip(prediction: Prediction) -> dict[str, Any]:
    first = {name: targets[0].cpu() for name, targets in prediction.targets.items()}
    return {
        "features": prediction.features[0].cpu(),
        "mask": prediction.time_mask[0].cpu(),
        "codes": first,
        "predicted": {name: x[0].argmax(-1).cpu() for name, x in prediction.logits.items()},
    }
