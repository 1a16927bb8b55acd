"""Score the syllables of a finished model against its untrained self and mel-energy valleys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_audio import hub
from ssl_audio.config import construct
from ssl_audio.devices import default_device
from ssl_audio.pipeline import RunContext, Stage
from ssl_audio.probes.runner import write_results
from ssl_audio.probes.syllable_suite import SyllableSettings, probe_syllables
from ssl_audio.tokenizers import SyllableTokenizer


class SegmentationStage(Stage):
    """Results go to ``results.json`` and ``results.md``.

    Args:
        tokenizer: an exported syllable tokenizer or ``stage:NAME``.
        others: column name to further encoders, to compare with.
        corpora: name to a section that makes recordings with known syllables, or null.
        settings: arguments of ``SyllableSettings``.
        device: null picks a GPU if there is one.
    """

    on_change = "rerun"

    def __init__(
        self,
        tokenizer: str,
        others: Mapping[str, str],
        corpora: Mapping[str, Mapping[str, Any] | None],
        settings: Mapping[str, Any],
        device: str | None = None,
    ) -> None:
        self.tokenizer, self.others, self.corpora = tokenizer, others, corpora
        self.settings, self.device = settings, default_device(device)

    def run(self, directory: Path, context: RunContext) -> None:
        tokenizer = hub.load_tokenizer(context.resolve(self.tokenizer))
        if not isinstance(tokenizer, SyllableTokenizer):
            raise ValueError(f"{self.tokenizer} is of kind {tokenizer.kind!r}, not 'syllables'")
        results = probe_syllables(
            tokenizer.to(self.device),
            [
                construct(section, f"segmentation.corpora.{name}")
                for name, section in self.corpora.items()
                if section is not None
            ],
            others={
                name: hub.load_encoder(context.resolve(source)).to(self.device)
                for name, source in self.others.items()
            },
            settings=SyllableSettings(**self.settings),
            progress=True,
        )
        write_results(results, directory)
