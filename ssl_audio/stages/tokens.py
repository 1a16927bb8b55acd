"""Extract the teachers' tokens of all training audio once (``tokens=stored``)."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_audio import hub
from ssl_audio.data.segments import DOMAINS
from ssl_audio.data.token_extraction import extract_tokens
from ssl_audio.devices import default_device
from ssl_audio.pipeline import RunContext, Stage, global_rank
from ssl_audio.stages.common import build_data
from ssl_audio.tasks.spear_loss import STRATEGIES

POLL_SEC = 5.0  # between looks whether the other ranks have finished


class TokenStage(Stage):
    """One token store per teacher, in the stage's folder; existing shards are kept.

    Under torchrun or srun the ranks share the shards.

    Args:
        tokenizers: teacher name to an export or ``stage:NAME``; null for a teacher left out.
        strategy: of SPEAR's task; decides which clips need which teacher. Null: those of
            ``domains``.
        data: section of the data module.
        device: null picks a GPU if there is one.
        seed: of the run.
        domains: of the clips, where no strategy decides.
    """

    ranks = "shared"

    def __init__(
        self,
        tokenizers: Mapping[str, str | None],
        strategy: str | None,
        data: Mapping[str, Any],
        seed: int,
        device: str | None = None,
        domains: Sequence[str] = tuple(DOMAINS),
    ) -> None:
        self.domains = domains
        self.tokenizers = {name: source for name, source in tokenizers.items() if source}
        self.strategy, self.data, self.seed = strategy, data, seed
        self.device = default_device(device)

    def run(self, directory: Path, context: RunContext) -> None:
        data = build_data(self.data, self.seed)
        for name, source in self.tokenizers.items():
            export = context.resolve(source)
            domains = self.domains
            if self.strategy:
                wanted = STRATEGIES[self.strategy][name]
                domains = [label for label, domain in DOMAINS.items() if domain in wanted]
            tokenizer = hub.load_tokenizer(export)
            store = None
            while store is None:
                store = extract_tokens(
                    tokenizer,
                    data,
                    directory / name,
                    teacher_hash=hub.content_hash(export),
                    domains=domains,
                    device=self.device,
                    rank=global_rank(),
                    num_ranks=int(os.environ.get("WORLD_SIZE", "1")),
                )
                if store is None and global_rank() != 0:
                    break
                if store is None:
                    time.sleep(POLL_SEC)
