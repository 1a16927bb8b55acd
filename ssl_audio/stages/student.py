"""Pre-train an encoder: one Lightning fit, resumed from its newest checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_audio import hub
from ssl_audio.config import construct
from ssl_audio.data.token_store import TokenStore
from ssl_audio.pipeline import RunContext, Stage, global_rank, provenance, rank_zero_print
from ssl_audio.stages.common import build_data, build_encoder, seeded
from ssl_audio.stages.fit import FitSections, build_trainer, fit
from ssl_audio.tasks.spear import TokenSpec
from ssl_audio.tokenizers.tokenizer import Tokenizer


class StudentStage(Stage):
    """Fit a task on the data, then export its encoder.

    Args:
        model: ``kind`` and ``config`` of the encoder.
        task: section of the task, ``_target_`` and its own arguments.
        tokens: "online" or "stored".
        tokenizers: teacher name to an export or ``stage:NAME``; null for a teacher left out. Empty
            for a task that needs none.
        data: section of the data module.
        trainer, callbacks, logger: their sections.
        checkpoint_every: optimizer steps between checkpoints.
        seed: of initial weights, data order and all draws.
        token_stage: name of the stage that stored the tokens.
        start: weights to begin with, a ``load_encoder`` source or ``stage:NAME``; null for fresh.
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
        token_stage: str = "tokens",
        start: str | None = None,
    ) -> None:
        self.model, self.task, self.data = model, task, data
        self.tokens, self.token_stage = tokens, token_stage
        self.tokenizers = {name: source for name, source in tokenizers.items() if source}
        self.sections = FitSections(trainer, callbacks, logger, task["max_steps"], checkpoint_every)
        self.seed = seed
        self.start = start

    def run(self, directory: Path, context: RunContext) -> None:
        tokenizers = {
            name: hub.load_tokenizer(context.resolve(source))
            for name, source in self.tokenizers.items()
        }
        data = build_data(self.data, self.seed)
        online: dict[str, Tokenizer] | None = tokenizers
        if tokenizers and self.tokens == "stored":
            data.use_tokens(self._stores(context, data.segments.fingerprint))
            online = None
        labels: dict[str, Any] = {}
        if tokenizers:
            specs = {name: _spec(tokenizer) for name, tokenizer in tokenizers.items()}
            labels = {"tokens": specs, "tokenizers": online}
        start = None if self.start is None else context.resolve(self.start)
        with seeded(self.seed):
            task = construct(
                self.task,
                "task",
                encoder=build_encoder(self.model, start),
                **labels,
                seed=self.seed,
            )
        trainer = build_trainer(self.sections, directory)
        # With the few weights that are not trained, as the published sizes are.
        weights = sum(tensor.numel() for tensor in task.encoder.state_dict().values())
        rank_zero_print(f"encoder: {weights / 1e6:.3f} M parameters")
        fit(trainer, task, data, directory)
        if global_rank() == 0:
            hub.save(task.finished_encoder(), directory / "export", provenance(directory))

    def _stores(self, context: RunContext, data_fingerprint: str) -> dict[str, TokenStore]:
        return {
            name: TokenStore.open(
                context.stage_dir(self.token_stage) / name,
                expect={
                    "teacher_hash": hub.content_hash(context.resolve(source)),
                    "data": data_fingerprint,
                },
            )
            for name, source in self.tokenizers.items()
        }


def _spec(tokenizer: Tokenizer) -> TokenSpec:
    return TokenSpec(tokenizer.num_codebooks, tokenizer.codebook_size, tokenizer.frame_rate)
