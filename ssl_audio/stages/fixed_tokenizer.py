"""Export a tokenizer that learns nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_audio import hub
from ssl_audio.pipeline import RunContext, Stage, provenance


class FixedTokenizerStage(Stage):
    """Makes it once, with whatever it draws; whoever needs the labels reads the export.

    Args:
        tokenizer: ``kind`` and ``config``.
    """

    def __init__(self, tokenizer: Mapping[str, Any]) -> None:
        self.tokenizer = tokenizer

    def run(self, directory: Path, context: RunContext) -> None:
        tokenizer = hub.build(self.tokenizer, "tokenizer")
        hub.save(tokenizer, directory / "export", provenance(directory))
