"""X-ARES' tasks for the finished encoder, its untrained self and log-mel energies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_audio import hub
from ssl_audio.devices import default_device
from ssl_audio.pipeline import RunContext, Stage
from ssl_audio.probes.hear.run import encoder_and_baselines
from ssl_audio.probes.runner import write_results
from ssl_audio.probes.sources import Patches
from ssl_audio.probes.xares.run import XaresRun
from ssl_audio.probes.xares.task import ProtocolName


class XaresStage(Stage):
    """Writes ``results.json`` and ``results.md``.

    Args:
        encoder: an export or ``stage:NAME``.
        root: folder with one folder of tars for each task.
        protocol: "ours" or "compat".
        layer: "last", the number of a hidden state, or "concat".
        patches: "concat" or "mean", see ``EncoderLayers``.
        table: the tasks (``configs/probe/xares.yaml``).
        not_implemented: tasks that are not there, and why.
        cache_dir: where embeddings and scores are kept between runs.
        seed: of the untrained encoder's weights, and of the heads.
    """

    on_change = "rerun"

    def __init__(
        self,
        encoder: str,
        root: str,
        protocol: ProtocolName,
        layer: str,
        patches: Patches,
        table: Mapping[str, Mapping[str, Any]],
        not_implemented: Mapping[str, str],
        cache_dir: str,
        seed: int,
    ) -> None:
        self.encoder, self.layer, self.patches = encoder, str(layer), patches
        self.table, self.not_implemented = table, not_implemented
        self.tasks = XaresRun(Path(root), protocol, Path(cache_dir), seed, default_device())

    def run(self, directory: Path, context: RunContext) -> None:
        encoder = hub.load_encoder(context.resolve(self.encoder)).to(self.tasks.device)
        sources = encoder_and_baselines(encoder, self.layer, self.tasks.seed, self.patches)
        results = self.tasks.suite(sources, self.table, self.not_implemented, layer=self.layer)
        write_results(results, directory)
