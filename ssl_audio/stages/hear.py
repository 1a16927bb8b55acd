"""HEAR's tasks for the finished encoder, its untrained self and log-mel statistics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_audio import hub
from ssl_audio.pipeline import RunContext, Stage
from ssl_audio.probes.hear.protocol import ProtocolName
from ssl_audio.probes.hear.run import HearRun, encoder_and_baselines
from ssl_audio.probes.runner import write_results
from ssl_audio.probes.sources import Patches


class HearStage(Stage):
    """Writes ``results.json`` and ``results.md``.

    Args:
        encoder: an export or ``stage:NAME``.
        root: folder with HEAR's preprocessed tasks.
        protocol: "ours" or "heareval".
        layer: "last", the number of a hidden state, or "concat".
        patches: "concat" or "mean", see ``EncoderLayers``.
        table: the tasks (``configs/probe/hear.yaml``).
        cache_dir: where embeddings and scores are kept between runs.
        seed: of the untrained encoder's weights.
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
        cache_dir: str,
        seed: int,
    ) -> None:
        self.encoder, self.layer, self.patches = encoder, str(layer), patches
        self.table, self.seed = table, seed
        self.tasks = HearRun(Path(root), protocol, Path(cache_dir))

    def run(self, directory: Path, context: RunContext) -> None:
        encoder = hub.load_encoder(context.resolve(self.encoder))
        sources = encoder_and_baselines(encoder, self.layer, self.seed, self.patches)
        results = self.tasks.suite(sources, self.table, layer=self.layer)
        write_results(results, directory)
