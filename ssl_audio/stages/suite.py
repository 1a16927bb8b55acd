"""HEAR, SUPERB or X-ARES for the finished encoder, its untrained self and log-mel energies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_audio import hub
from ssl_audio.config import construct
from ssl_audio.devices import default_device
from ssl_audio.pipeline import RunContext, Stage
from ssl_audio.probes.runner import write_results
from ssl_audio.probes.task_suite import TaskSuite


class SuiteStage(Stage):
    """Writes ``results.json`` and ``results.md``.

    Args:
        encoder: an export or ``stage:NAME``.
        tasks: section of a ``TaskSuite``.
        seed: of the untrained encoder's weights, and of heads.
    """

    on_change = "rerun"

    def __init__(self, encoder: str, tasks: Mapping[str, Any], seed: int) -> None:
        self.encoder, self.seed = encoder, seed
        self.tasks: TaskSuite[Any, Any] = construct(
            tasks, "probe.stage.tasks", seed=seed, device=default_device(), progress=True
        )

    def run(self, directory: Path, context: RunContext) -> None:
        encoder = hub.load_encoder(context.resolve(self.encoder)).to(self.tasks.device)
        write_results(self.tasks.probe(encoder, untrained_seed=self.seed), directory)
