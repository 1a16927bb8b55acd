"""Train the tokenizer of a later BEATs iteration from the encoder of the one before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_audio import hub
from ssl_audio.config import construct
from ssl_audio.pipeline import RunContext, Stage, global_rank, provenance
from ssl_audio.stages.common import build_data, seeded
from ssl_audio.stages.fit import FitSections, build_trainer, fit


class DistillationStage(Stage):
    """Fit a ``DistillationTask``, then export its tokenizer.

    Args:
        tokenizer: ``kind`` and ``config``.
        teacher: a ``load_encoder`` source or ``stage:NAME``.
        task: section of the task.
        data: section of the data module.
        batch_sec: seconds of audio in a micro-batch, in place of the data's own.
        trainer, callbacks, logger: their sections.
        checkpoint_every: optimizer steps between checkpoints.
        seed: of initial weights, data order and all draws.
    """

    ranks = "all"

    def __init__(
        self,
        tokenizer: Mapping[str, Any],
        teacher: str,
        task: Mapping[str, Any],
        data: Mapping[str, Any],
        batch_sec: float,
        trainer: Mapping[str, Any],
        callbacks: Mapping[str, Any],
        logger: Mapping[str, Any] | None,
        checkpoint_every: int,
        seed: int,
    ) -> None:
        self.tokenizer, self.teacher, self.task = tokenizer, teacher, task
        self.data = {**data, "batch_sec": batch_sec}
        self.sections = FitSections(trainer, callbacks, logger, task["max_steps"], checkpoint_every)
        self.seed = seed

    def run(self, directory: Path, context: RunContext) -> None:
        teacher = hub.load_encoder(context.resolve(self.teacher))
        data = build_data(self.data, self.seed)
        with seeded(self.seed):
            tokenizer = hub.build(self.tokenizer, "tokenizer.distilled")
            task = construct(
                self.task, "distillation", tokenizer=tokenizer, teacher=teacher, seed=self.seed
            )
        fit(build_trainer(self.sections, directory), task, data, directory)
        if global_rank() == 0:
            hub.save(task.tokenizer, directory / "export", provenance(directory))
