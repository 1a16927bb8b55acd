"""SUPERB's tasks for the finished encoder, its untrained self and log-mel energies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_audio import hub
from ssl_audio.devices import default_device
from ssl_audio.pipeline import RunContext, Stage
from ssl_audio.probes.hear.run import CONCAT, encoder_and_baselines
from ssl_audio.probes.runner import write_results
from ssl_audio.probes.superb.run import SuperbRun
from ssl_audio.probes.superb.task import ProtocolName, Settings


class SuperbStage(Stage):
    """Writes ``results.json`` and ``results.md``.

    Args:
        encoder: an export or ``stage:NAME``.
        root: folder with the corpora.
        protocol: "ours" or "compat".
        layer_norm: normalise layers before they are summed.
        max_steps: caps every recipe's steps; None trains as the recipes say.
        table: the recipes (``configs/probe/superb.yaml``).
        not_implemented: tasks that are not there, and why.
        cache_dir: where features and finished tasks are kept between runs.
        seed: of the untrained encoder's weights, and of the heads.
    """

    on_change = "rerun"

    def __init__(
        self,
        encoder: str,
        root: str,
        protocol: ProtocolName,
        layer_norm: bool,
        max_steps: int | None,
        table: Mapping[str, Mapping[str, Any]],
        not_implemented: Mapping[str, str],
        cache_dir: str,
        seed: int,
    ) -> None:
        self.encoder, self.table, self.not_implemented = encoder, table, not_implemented
        settings = Settings(
            protocol,
            seed,
            device=default_device(),
            cache_dir=Path(cache_dir),
            max_steps=max_steps,
            progress=True,
        )
        self.tasks = SuperbRun(Path(root), settings, layer_norm)

    def run(self, directory: Path, context: RunContext) -> None:
        encoder = hub.load_encoder(context.resolve(self.encoder)).to(self.tasks.settings.device)
        sources = encoder_and_baselines(encoder, CONCAT, self.tasks.settings.seed)
        write_results(self.tasks.suite(sources, self.table, self.not_implemented), directory)
