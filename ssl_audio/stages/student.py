"""Pre-train the student: one Lightning fit, resumed from its newest checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from ssl_audio import hub
from ssl_audio.checkpoint_io import AtomicCheckpointIO, latest_checkpoint
from ssl_audio.config import construct
from ssl_audio.data.token_store import TokenStore
from ssl_audio.pipeline import RunContext, Stage, global_rank, provenance, rank_zero_print
from ssl_audio.stages.common import build_data, build_student, seeded
from ssl_audio.tasks.spear import TokenSpec
from ssl_audio.tokenizers.tokenizer import Tokenizer


class StudentStage(Stage):
    """Fit a task on the data, then export its encoder.

    Args:
        model: ``kind`` and ``config`` of the encoder.
        task: section of the task, ``_target_`` and its own arguments.
        tokens: "online" or "stored".
        tokenizers: teacher name to an export or ``stage:NAME``; null for a teacher left out.
        data: section of the data module.
        trainer, callbacks, logger: their sections.
        checkpoint_every: optimizer steps between checkpoints.
        seed: of initial weights, data order and all draws.
    """

    ranks = "all"

    def __init__(
        self,
        model: Mapping[str, Any],
        task: Mapping[str, Any],
        tokens: str,
        tokenizers: Mapping[str, str | None],
        data: Mapping[str, Any],
        trainer: Mapping[str, Any],
        callbacks: Mapping[str, Any],
        logger: Mapping[str, Any] | None,
        checkpoint_every: int,
        seed: int,
    ) -> None:
        self.model, self.task, self.data = model, task, data
        self.tokens = tokens
        self.tokenizers = {name: source for name, source in tokenizers.items() if source}
        self.trainer, self.callbacks, self.logger = trainer, callbacks, logger
        self.checkpoint_every = checkpoint_every
        self.seed = seed

    def run(self, directory: Path, context: RunContext) -> None:
        tokenizers = {
            name: hub.load_tokenizer(context.resolve(source))
            for name, source in self.tokenizers.items()
        }
        data = build_data(self.data, self.seed)
        online: dict[str, Tokenizer] | None = tokenizers
        if self.tokens == "stored":
            data.use_tokens(self._stores(context, data.segments.fingerprint))
            online = None
        with seeded(self.seed):
            task = construct(
                self.task,
                "task",
                encoder=build_student(self.model),
                tokens={name: _spec(tokenizer) for name, tokenizer in tokenizers.items()},
                tokenizers=online,
                batch_sec=data.batch_sec,
                seed=self.seed,
            )
        trainer = self._build_trainer(directory)
        # With the few weights that are not trained, as the published sizes are.
        weights = sum(tensor.numel() for tensor in task.encoder.state_dict().values())
        rank_zero_print(f"encoder: {weights / 1e6:.3f} M parameters")
        checkpoint = latest_checkpoint(directory / "checkpoints")
        if checkpoint is not None:
            rank_zero_print(f"resuming from {checkpoint}")
        trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
        if trainer.interrupted:
            raise ValueError("interrupted; run the same command to go on")
        if global_rank() == 0:
            hub.save(task.encoder, directory / "export", provenance(directory))
        _list_skipped(data.skipped)
        short = data.segments.num_short_clips
        if short:
            rank_zero_print(f"{short} clips shorter than {self.data['min_sec']} s were left out")

    def _stores(self, context: RunContext, data_fingerprint: str) -> dict[str, TokenStore]:
        return {
            name: TokenStore.open(
                context.stage_dir("tokens") / name,
                expect={
                    "teacher_hash": hub.content_hash(context.resolve(source)),
                    "data": data_fingerprint,
                },
            )
            for name, source in self.tokenizers.items()
        }

    def _build_trainer(self, directory: Path) -> Trainer:
        checkpoints = ModelCheckpoint(
            dirpath=directory / "checkpoints",
            filename="{step}",
            every_n_train_steps=self.checkpoint_every,
            monitor="step",
            mode="max",
            save_top_k=2,  # the newest and one to fall back on
            save_on_train_epoch_end=False,
        )
        callbacks: list[Callback] = [
            construct(section, f"callbacks.{name}")
            for name, section in self.callbacks.items()
            if section is not None
        ]
        logger = False
        if self.logger:
            logger = construct(self.logger, "logger", save_dir=str(directory.parent))
        trainer: Trainer = construct(
            self.trainer,
            "trainer",
            logger=logger,
            callbacks=[checkpoints, *callbacks],
            plugins=[AtomicCheckpointIO()],
            use_distributed_sampler=False,
            default_root_dir=str(directory),
        )
        return trainer


def _spec(tokenizer: Tokenizer) -> TokenSpec:
    return TokenSpec(tokenizer.num_codebooks, tokenizer.codebook_size, tokenizer.frame_rate)


@rank_zero_only
def _list_skipped(skipped: list[tuple[str, str]], shown: int = 20) -> None:
    if not skipped:
        return
    print(f"{len(skipped)} files were skipped:")
    for _, reason in skipped[:shown]:
        print(f"  {reason}")
    if len(skipped) > shown:
        print(f"  ... and {len(skipped) - shown} more")
