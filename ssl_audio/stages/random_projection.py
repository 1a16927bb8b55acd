"""Draw a tokenizer that learns nothing, and export it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_audio import hub
from ssl_audio.pipeline import RunContext, Stage, provenance


class RandomProjectionStage(Stage):
    """Draws the tables once and keeps them; whoever needs the labels reads the export.

    Args:
        tokenizer: ``kind`` and ``config``.
    """

    def __init__(self, tokenizer: Mapping[str, Any]) -> None:
        self.tokenizer = tokenizer

    def run(self, directory: Path, context: RunContext) -> None:
        tokenizer = hub.build(self.tokenizer, "tokenizer.random_projection")
        hub.save(tokenizer, directory / "export", provenance(directory))
