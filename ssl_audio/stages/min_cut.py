"""Put SD-HuBERT's min-cut around an encoder, and export both as a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_audio import hub
from ssl_audio.pipeline import RunContext, Stage, provenance
from ssl_audio.tokenizers.min_cut_labels import MinCutTokenizer


class MinCutStage(Stage):
    """Nothing is trained; whoever needs the labels reads the export.

    Args:
        encoder: a ``load_encoder`` source or ``stage:NAME``.
        options: of ``MinCutTokenizer``.
    """

    def __init__(self, encoder: str, options: Mapping[str, Any]) -> None:
        self.encoder, self.options = encoder, options

    def run(self, directory: Path, context: RunContext) -> None:
        encoder = hub.load_encoder(context.resolve(self.encoder))
        hub.save(
            MinCutTokenizer(encoder, **self.options), directory / "export", provenance(directory)
        )
