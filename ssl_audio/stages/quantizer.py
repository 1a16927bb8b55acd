"""Train the quantizer of one teacher, and export teacher and quantizer as a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ssl_audio import hub
from ssl_audio.batch import valid_mask
from ssl_audio.checkpoints import read_checkpoint
from ssl_audio.devices import default_device
from ssl_audio.files import replacing, write_json
from ssl_audio.models.encoder import Encoder
from ssl_audio.pipeline import RunContext, Stage, provenance
from ssl_audio.stages.common import build_data
from ssl_audio.tasks.alignment import frame_ratio
from ssl_audio.tokenizers.mvq import MultiCodebookQuantizer
from ssl_audio.tokenizers.mvq_trainer import QuantizerTrainer, batch_indices
from ssl_audio.tokenizers.teacher_tokens import (
    MVQTokenizer,
    channel_statistics,
    normalize_channels,
    teacher_rows,
)

LOG_EVERY = 50  # steps
SAVE_EVERY = 1000
MAX_VALID_FRAMES = 10_000  # held out, and at most 5 % (multi_quantization's training script)


class QuantizerStage(Stage):
    """Collect teacher frames, train an MVQ quantizer on them, export an ``MVQTokenizer``.

    Runs on rank 0 alone, so no statistics can differ between ranks.

    Args:
        domain: of the clips whose frames are used, "speech" or "audio".
        tokenizer: ``teacher`` (a ``load_encoder`` source, or ``kind`` and ``config``), ``layer``
            (index into its hidden states, or null for its output), ``normalize`` (per channel),
            ``num_codebooks``, ``codebook_size`` (a square) and ``train``: ``num_frames``,
            ``batch_frames``, ``phase_one_iters``, ``phase_two_iters``, ``lr``.
        student: section of the encoder that will predict the codes; its clock must fit.
        data: section of the data module.
        device: of the teacher and the training; null picks a GPU if there is one.
        seed: of the run.
    """

    def __init__(
        self,
        domain: str,
        tokenizer: Mapping[str, Any],
        student: Mapping[str, Any],
        data: Mapping[str, Any],
        seed: int,
        device: str | None = None,
    ) -> None:
        self.domain, self.tokenizer, self.data, self.seed = domain, tokenizer, data, seed
        self.student = student
        self.device = default_device(device)

    def run(self, directory: Path, context: RunContext) -> None:
        teacher = load_teacher(self.tokenizer["teacher"]).to(self.device)
        with torch.device("meta"):  # sizes without weights
            student: Encoder = hub.build(self.student, "model")
        frame_ratio(student.frame_rate, teacher.frame_rate / teacher.patches_per_row)
        frames = self._collect(teacher)
        mean = std = None
        if self.tokenizer["normalize"]:
            mean, std = channel_statistics(frames)
        num_valid = min(MAX_VALID_FRAMES, len(frames) // 20)
        if num_valid == 0:
            raise ValueError(
                f"{self.domain}: only {len(frames)} teacher frames; give more {self.domain} audio"
            )
        prepare = _Prepare(mean, std, self.device)
        quantizer = self._train(frames[num_valid:], prepare, directory)
        tokenizer = MVQTokenizer(teacher, quantizer, self.tokenizer["layer"], mean, std)
        loss = _validate(quantizer, prepare(frames[:num_valid]))
        write_json(directory / "metrics.json", loss)
        print(f"relative reconstruction loss on held-out frames: {loss['rel_reconstruction']:.3f}")
        hub.save(tokenizer.cpu(), directory / "export", provenance(directory))
        (directory / "training.pt").unlink(missing_ok=True)

    def _collect(self, teacher: Encoder) -> Tensor:
        """(F, D) teacher frames of training clips in float16, in a random order of the clips."""
        wanted = self.tokenizer["train"]["num_frames"]
        data = build_data(self.data, self.seed)
        collected, count = [], 0
        batches = data.iter_batches("train", domains=[self.domain])
        for batch in track(batches, f"{self.domain} teacher frames", transient=True):
            frames, lengths = teacher_rows(
                teacher,
                self.tokenizer["layer"],
                batch.waveforms.to(self.device),
                batch.lengths.to(self.device),
            )
            collected.append(frames[valid_mask(lengths, frames.shape[1])].half().cpu())
            count += len(collected[-1])
            if count >= wanted:
                break
        return torch.cat(collected)[:wanted]

    def _train(self, frames: Tensor, prepare: _Prepare, directory: Path) -> MultiCodebookQuantizer:
        settings = self.tokenizer["train"]
        trainer = QuantizerTrainer(
            frames.shape[1],
            self.tokenizer["num_codebooks"],
            settings["phase_one_iters"],
            settings["phase_two_iters"],
            settings["lr"],
            seed=self.seed,
            device=self.device,
            codebook_size=self.tokenizer["codebook_size"],
        )
        saved = directory / "training.pt"
        if saved.exists():
            trainer.load_state_dict(read_checkpoint(saved))
        remaining = range(trainer.steps_done, trainer.num_steps)
        with SummaryWriter(str(directory)) as writer:
            for step in track(remaining, f"{self.domain} quantizer", transient=True):
                picked = batch_indices(len(frames), settings["batch_frames"], step, self.seed)
                losses = trainer.step(prepare(frames[picked]))
                if step % LOG_EVERY == 0:
                    for name, value in losses._asdict().items():
                        writer.add_scalar(f"quantizer/{self.domain}/{name}", value, step)
                if (step + 1) % SAVE_EVERY == 0:
                    with replacing(saved) as temporary:
                        torch.save(trainer.state_dict(), temporary)
        return trainer.quantizer


class _Prepare:
    """Stored frames to what the quantizer sees: float32, on the device, normalised if asked."""

    def __init__(self, mean: Tensor | None, std: Tensor | None, device: str) -> None:
        self.mean, self.std, self.device = mean, std, device

    def __call__(self, frames: Tensor) -> Tensor:
        frames = frames.float()
        if self.mean is not None and self.std is not None:
            frames = normalize_channels(frames, self.mean, self.std)
        return frames.to(self.device)


def load_teacher(teacher: str | Mapping[str, Any]) -> Encoder:
    """A frozen encoder from a ``load_encoder`` source, or from ``kind`` and ``config``."""
    if isinstance(teacher, str):
        return hub.load_encoder(teacher)
    encoder: Encoder = hub.build(teacher, "tokenizer.teacher")
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def _validate(quantizer: MultiCodebookQuantizer, frames: Tensor) -> dict[str, float]:
    losses = quantizer.compute_loss(frames, refine_iters=5)
    return {name: float(value) for name, value in losses._asdict().items()}
