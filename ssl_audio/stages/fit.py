"""What every stage does around its Lightning fit: build the trainer, resume, report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities import rank_zero_only

from ssl_audio.checkpoint_io import AtomicCheckpointIO, latest_checkpoint
from ssl_audio.config import construct
from ssl_audio.data.datamodule import DataModule
from ssl_audio.pipeline import rank_zero_print

# Of fp16. Our losses are sums, which overflow at PyTorch's 65536; SPEAR and BEATs begin with 1 too.
FIRST_LOSS_SCALE = 1.0


@dataclass(frozen=True, slots=True)
class FitSections:
    """Config sections of a fit.

    Attributes:
        trainer, callbacks, logger: as they stand in the config.
        max_steps: optimizer steps; goes before the trainer's own.
        checkpoint_every: optimizer steps between checkpoints.
    """

    trainer: Mapping[str, Any]
    callbacks: Mapping[str, Any]
    logger: Mapping[str, Any] | None
    max_steps: int
    checkpoint_every: int


def build_trainer(
    sections: FitSections, directory: Path, best: ModelCheckpoint | None = None
) -> Trainer:
    """A trainer whose checkpoints and curves lie in ``directory``.

    With ``best``, which judges validations, checkpoints are written after validation and hold its
    judgement, so that a resumed run chooses the same.
    """
    checkpoints = ModelCheckpoint(
        dirpath=directory / "checkpoints",
        filename="{step}",
        every_n_train_steps=None if best else sections.checkpoint_every,
        monitor="step",
        mode="max",
        save_top_k=2,  # the newest and one to fall back on
        save_on_train_epoch_end=False,
    )
    callbacks: list[Callback] = [
        construct(section, f"callbacks.{name}")
        for name, section in sections.callbacks.items()
        if section is not None
    ]
    logger = False
    if sections.logger:
        logger = construct(sections.logger, "logger", save_dir=str(directory))
    settings = {**sections.trainer, "max_steps": sections.max_steps}
    plugins: list[Any] = [AtomicCheckpointIO()]
    if settings.get("precision") == "16-mixed":
        plugins.append(_fp16(settings))
        del settings["precision"]
    trainer: Trainer = construct(
        settings,
        "trainer",
        logger=logger,
        callbacks=[*([best] if best else []), checkpoints, *callbacks],
        plugins=plugins,
        use_distributed_sampler=False,
        default_root_dir=str(directory),
    )
    return trainer


def _fp16(settings: Mapping[str, Any]) -> MixedPrecision:
    on_cpu = settings.get("accelerator") == "cpu" or not torch.cuda.is_available()
    device = "cpu" if on_cpu else "cuda"
    scaler = torch.amp.GradScaler(device, init_scale=FIRST_LOSS_SCALE)
    return MixedPrecision("16-mixed", device, scaler)


def fit(trainer: Trainer, task: LightningModule, data: DataModule, directory: Path) -> None:
    """Train to the last step, from the newest checkpoint of ``directory`` if there is one.

    Raises:
        ValueError: interrupted.
    """
    checkpoint = latest_checkpoint(directory / "checkpoints")
    if checkpoint is not None:
        rank_zero_print(f"resuming from {checkpoint}")
    trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
    if trainer.interrupted:
        raise ValueError("interrupted; run the same command to go on")
    _list_skipped(data)


@rank_zero_only
def _list_skipped(data: DataModule, shown: int = 20) -> None:
    skipped = data.skipped
    if skipped:
        print(f"{len(skipped)} files were skipped:")
        for _, reason in skipped[:shown]:
            print(f"  {reason}")
        if len(skipped) > shown:
            print(f"  ... and {len(skipped) - shown} more")
    if data.segments.num_short_clips:
        count, shortest = data.segments.num_short_clips, data.min_sec
        print(f"{count} clips shorter than {shortest} s were left out")
