"""Score the finished encoder against its untrained self and log-mel statistics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_audio import hub
from ssl_audio.config import construct
from ssl_audio.pipeline import RunContext, Stage
from ssl_audio.probes.runner import run_probes, write_results
from ssl_audio.probes.sources import untrained_twin


class ProbeStage(Stage):
    """Probe an export and its untrained twin; results go to ``results.json`` and ``results.md``.

    Args:
        encoder: an export or ``stage:NAME``.
        others: column name to further encoders, to compare with.
        suite: section of the probe suite.
        settings: section of ``ProbeSettings``.
        cache_dir: where scores of baselines are kept between runs.
        seed: of the untrained encoder's weights, the same as the student's first ones.
    """

    on_change = "rerun"

    def __init__(
        self,
        encoder: str,
        others: Mapping[str, str],
        suite: Mapping[str, Any],
        settings: Mapping[str, Any],
        cache_dir: str,
        seed: int,
    ) -> None:
        self.encoder, self.others, self.seed = encoder, others, seed
        self.suite, self.settings, self.cache_dir = suite, settings, cache_dir

    def run(self, directory: Path, context: RunContext) -> None:
        encoder = hub.load_encoder(context.resolve(self.encoder))
        results = run_probes(
            encoder,
            construct(self.suite, "probe.suite"),
            untrained=untrained_twin(encoder, self.seed),
            others={
                name: hub.load_encoder(context.resolve(source))
                for name, source in self.others.items()
            },
            settings=construct(self.settings, "probe.settings"),
            cache_dir=self.cache_dir,
            progress=True,
        )
        write_results(results, directory)
