"""Sylber: self-segmentation distillation of a truncated HuBERT (arXiv 2410.07168).

    clean speech ──► teacher ──► frames (B, T, D) ──► segments: given, or cut from them
         │                            └──────────────► target: mean of each segment, else 0
         └─ noise ──► student ──► frames (B, T, D) ──► squared error to the target

Stage 1 takes the segments from a tokenizer (or from stored codes), stage 2 cuts them online. The
teacher is an EMA with decay 1 in both, that is: frozen.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ssl_audio import hub
from ssl_audio.batch import SPEECH, AudioBatch, Tokens, valid_mask
from ssl_audio.data.noise_mixing import NoiseMixing, draw_noise, noise_pieces
from ssl_audio.models.ema import EMA
from ssl_audio.models.hubert import HubertEncoder
from ssl_audio.optim.hold_cosine import warmup_hold_cosine_lr
from ssl_audio.rng import sample_generator
from ssl_audio.tasks.adamw import AdamWTask, pair
from ssl_audio.tasks.alignment import align_codes
from ssl_audio.tasks.spear import TokenSpec
from ssl_audio.tasks.syllable_loss import (
    DistillationLoss,
    distillation_loss,
    frame_norms,
    ids_from_labels,
    mean_pairwise_cosine,
)
from ssl_audio.tokenizers.norm_threshold import NormThreshold, fit_norm_statistics
from ssl_audio.tokenizers.syllables_batch import (
    average_segments,
    pooled_segments,
    segment_batch,
    segment_ids,
)
from ssl_audio.tokenizers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

SEGMENTS = "segments"  # the name of the labels among a batch's codes
START_FRAMES = 100_000  # half an hour, to start the statistics of norms


@dataclass(frozen=True, slots=True)
class Step:
    """One micro-batch: teacher's and student's frames and the target (B, T, D), the segment of
    each frame (B, T), which frames count (B, T), and the loss."""

    teacher: Tensor
    student: Tensor
    target: Tensor
    ids: Tensor
    counted: Tensor
    loss: DistillationLoss


class SylberTask(AdamWTask):
    """Student, teacher, segments and objective.

    Speech is learned from; general audio in a batch serves as noise. Without any, all interferers
    are other utterances.

    Args:
        encoder: the student; the teacher starts as its copy.
        tokens: ``{"segments": spec}`` of the given segments (labels as ``ids_from_labels`` reads
            them), or None: the teacher's frames are segmented online.
        tokenizers: the same key to what makes the labels; None when they are stored in the batches.
        ema_decay: of the teacher, per optimizer step; 1 is frozen.
        noise_mixing: arguments of ``NoiseMixing``.
        norm_threshold: arguments of ``NormThreshold``, or a fixed threshold; without statistics,
            they are fitted to the teacher's norms when training starts. None where segments are
            given.
        merge_threshold: range of the similarity that one micro-batch is segmented with.
        count_padding: frames of padding are segmented and count, with target 0, as in the original.
        alarm_cosine: mean cosine between targets above which a collapse is reported.
        optimizer: see ``AdamWTask``.
        schedule: arguments of ``warmup_hold_cosine_lr`` besides rates and steps.
        seed: the run's seed.
        max_steps: optimizer steps of the run; read by the trainer.

    Raises:
        ValueError: segments that are neither given nor can be found, or an argument out of range.
    """

    def __init__(
        self,
        encoder: HubertEncoder,
        tokens: Mapping[str, TokenSpec] | None = None,
        tokenizers: Mapping[str, Tokenizer] | None = None,
        *,
        ema_decay: float,
        noise_mixing: Mapping[str, Any],
        norm_threshold: Mapping[str, Any] | float | None,
        merge_threshold: tuple[float, float],
        count_padding: bool,
        alarm_cosine: float,
        optimizer: Mapping[str, Any],
        schedule: Mapping[str, Any],
        seed: int,
        max_steps: int,
    ) -> None:
        super().__init__(optimizer, schedule, max_steps, seed)
        self.save_hyperparameters({"encoder": hub.spec(encoder), "max_steps": max_steps})
        tokens = dict(tokens or {})
        if set(tokens) - {SEGMENTS} or (not tokens) == (norm_threshold is None):
            raise ValueError(
                f"Sylber needs either codes named {SEGMENTS!r} or task.norm_threshold; got codes "
                f"{sorted(tokens)} and norm_threshold={norm_threshold}"
            )
        low, high = merge_threshold
        if not -1 <= low <= high <= 1:
            raise ValueError(f"task.merge_threshold={low} .. {high}: a range of cosines, -1 to 1")
        encoder.masked_spec_embed.requires_grad_(False)  # nothing is masked
        self.encoder = encoder
        self.teacher = EMA(encoder, ema_decay)
        self.tokens = tokens
        self.tokenizers = dict(tokenizers) if tokenizers else None
        self.mixing = NoiseMixing(**noise_mixing)
        self.norm_threshold: NormThreshold | float | None = (
            NormThreshold(**norm_threshold)
            if isinstance(norm_threshold, Mapping)
            else norm_threshold
        )
        self.merge_threshold = (low, high)
        self.count_padding = count_padding
        self.alarm_cosine = alarm_cosine

    def lr_at(self, step: int) -> float:
        """Learning rate after ``step`` optimizer steps."""
        lr = self.optimizer_config["lr"]
        return warmup_hold_cosine_lr(lr, step, total_steps=self.max_steps, **self.schedule)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        threshold = self.norm_threshold
        if isinstance(threshold, NormThreshold) and not threshold.is_fitted:
            found = fit_norm_statistics(self._teacher_norms()) if self.global_rank == 0 else {}
            threshold.fit(self.trainer.strategy.broadcast(found))

    @torch.no_grad()
    def _teacher_norms(self) -> Tensor:
        """(F,) norms of the teacher's frames of training speech."""
        norms, count = [], 0
        for batch in self.trainer.datamodule.iter_batches("train", domains=["speech"]):  # type: ignore[attr-defined]
            batch = batch.to(self.device)
            output = self.teacher.module(batch.waveforms, batch.lengths)
            valid = valid_mask(output.lengths, output.frames.shape[1])
            norms.append(frame_norms(output.frames)[valid].cpu())
            count += len(norms[-1])
            if count >= START_FRAMES:
                break
        return torch.cat(norms)

    # ---- one micro-batch

    def training_step(self, batch: AudioBatch, batch_idx: int) -> Tensor:
        self.begin_step(batch)
        step, rows = self._step(batch, "train")
        self.follow_norms(step)
        if self._logs_this_step:
            sums = self._sums(step)
            self.log_train(sums)
            self._alarm(sums["target_cosine"][0].item())
        clip_loss = step.loss.clip_loss.new_zeros(len(batch))
        clip_loss[rows] = step.loss.clip_loss
        return self.end_step(step.loss.total, step.loss.num_frames, clip_loss)

    def validation_step(self, batch: AudioBatch, batch_idx: int) -> None:
        self.add_valid(self._sums(self._step(batch, "valid")[0]))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.teacher.update(self.encoder)

    def distill(
        self,
        clean: Tensor,
        mixed: Tensor,
        lengths: Tensor,
        labels: Tensor | None,
        merge_threshold: float,
    ) -> Step:
        """Teacher, segments, student and loss.

        Args:
            clean, mixed: (B, S) what teacher and student hear, of unit variance.
            lengths: (B,) valid samples.
            labels: (B, T) as ``ids_from_labels`` takes them; None to segment the teacher's frames.
            merge_threshold: of the segmentation.
        """
        with torch.no_grad():
            teacher = self.teacher.module.forward_features(clean, lengths)  # type: ignore[operator]
        frames = teacher.frames.float()
        counted = valid_mask(teacher.lengths, frames.shape[1])
        if self.count_padding:
            counted = torch.ones_like(counted)
        if labels is not None:
            ids = ids_from_labels(labels)
        else:
            valid = None if self.count_padding else teacher.lengths
            segments = segment_batch(frames, valid, self._threshold(), merge_threshold)
            ids = segment_ids(segments, frames.shape[1])
        target = average_segments(frames, ids)
        student = self.encoder.forward_features(mixed, lengths).frames
        loss = distillation_loss(student, target, counted)
        return Step(frames, student, target, ids, counted, loss)

    def _step(self, batch: AudioBatch, purpose: str) -> tuple[Step, list[int]]:
        """The step on the batch's speech, and the rows it stands in."""
        speech = [row for row, domain in enumerate(batch.domains.tolist()) if domain == SPEECH]
        rows = speech or [0]  # without any, one clip goes along and nothing of it counts
        clean, lengths = self.encoder.features(batch.waveforms[rows], batch.lengths[rows])
        index = batch.sample_index[rows]
        mixed = self._mixed(clean, batch, index, purpose)
        rng = sample_generator(self.seed, f"{purpose}/merge_threshold", int(index[0]))
        labels = self._labels(batch, rows) if self.tokens else None
        step = self.distill(clean, mixed, lengths, labels, rng.uniform(*self.merge_threshold))
        if not speech:
            nothing = torch.zeros_like(step.counted)
            loss = distillation_loss(step.student, step.target, nothing)
            step = replace(step, counted=nothing, loss=loss)
        return step, rows

    def _mixed(
        self, clean: Tensor, batch: AudioBatch, sample_index: Tensor, purpose: str
    ) -> Tensor:
        others = [row for row, domain in enumerate(batch.domains.tolist()) if domain != SPEECH]
        noise = None
        if others:
            waves, lengths = self.encoder.features(batch.waveforms[others], batch.lengths[others])
            noise = noise_pieces(
                [wave[:length] for wave, length in zip(waves, lengths.tolist(), strict=True)],
                sample_index,
                clean.shape[1],
                self.seed,
                f"{purpose}/noise_piece",
            )
        draws = draw_noise(sample_index, self.seed, f"{purpose}/noise_mixing")
        return self.mixing(clean, noise, draws.to(clean.device))

    def _labels(self, batch: AudioBatch, rows: list[int]) -> Tensor:
        """(B, T) labels of the given segments, on the student's clock."""
        if self.tokenizers is None:
            assert SEGMENTS in batch.codes, "batches without stored segments"
            stored = batch.codes[SEGMENTS]
            tokens = Tokens(stored.codes[rows], stored.lengths[rows])
        else:
            tokenizer = self.tokenizers[SEGMENTS]
            tokens = tokenizer.encode(batch.waveforms[rows], batch.lengths[rows])
        num_frames = self.encoder.num_frames(batch.waveforms.shape[1])
        rate = self.tokens[SEGMENTS].frame_rate
        return align_codes(tokens, num_frames, self.encoder.frame_rate, rate)[..., 0]

    def _threshold(self) -> Tensor | float:
        threshold = self.norm_threshold
        assert threshold is not None
        return threshold() if isinstance(threshold, NormThreshold) else threshold

    def follow_norms(self, step: Step) -> None:
        """Signal norms are the teacher's, norms of silence the student's, which are to become 0."""
        if not isinstance(self.norm_threshold, NormThreshold):
            return
        norms = frame_norms(step.teacher)
        speech = norms >= self._threshold()
        self.norm_threshold.update(
            norms, speech & step.counted, frame_norms(step.student), ~speech & step.counted
        )

    # ---- logging

    @torch.no_grad()
    def _sums(self, step: Step) -> dict[str, Tensor]:
        """What is logged of a micro-batch: name to (sum, count)."""
        inside = (step.ids >= 0) & step.counted
        silent = (step.ids < 0) & step.counted
        norms = frame_norms(step.student)
        within = cosine_similarity(step.student.float(), step.target, dim=-1)
        means = pooled_segments(step.teacher, step.ids, step.ids.shape[1])
        exists = torch.arange(means.shape[1], device=means.device) <= step.ids.amax(1)[:, None]
        seconds = step.counted.sum() / self.encoder.frame_rate
        sums = {
            "loss": pair(step.loss.total, step.loss.num_frames),
            "speech_norm": pair((norms * inside).sum(), inside.sum()),
            "silence_norm": pair((norms * silent).sum(), silent.sum()),
            "target_similarity": pair((within * inside).sum(), inside.sum()),
            "target_cosine": pair(mean_pairwise_cosine(means, exists), 1),
            "segments_per_sec": pair(exists.sum(), seconds),
        }
        if self.norm_threshold is not None:
            sums["norm_threshold"] = pair(
                torch.as_tensor(self._threshold(), device=norms.device), 1
            )
        return sums

    def _alarm(self, target_cosine: float) -> None:
        if target_cosine > self.alarm_cosine:
            log.warning(
                "step %d: the targets' mean pairwise cosine is %.3f, above alarm_cosine=%g: all "
                "segments are becoming one vector; lower task.optimizer.lr or start from an "
                "encoder with more structure",
                self.global_step, target_cosine, self.alarm_cosine,
            )  # fmt: skip
