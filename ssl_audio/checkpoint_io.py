"""Training checkpoints that are either whole or absent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ssl_audio.files import replacing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes under a temporary name, syncs, renames; reads without unpickling code.

    A process that is killed or a disk that fills up while a checkpoint is written leaves the
    previous checkpoints as they were.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            raise ValueError(
                f"{path} could not be written ({_reason(error)}); earlier checkpoints are "
                "untouched: free some space and run the same command to go on"
            ) from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, loc: storage,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        return super().load_checkpoint(path, map_location, weights_only=True)


def _reason(error: BaseException) -> str:
    while error.__context__ is not None and not isinstance(error, OSError):
        error = error.__context__
    return str(error).splitlines()[0]


def latest_checkpoint(directory: Path) -> Path | None:
    """The checkpoint with the most steps, names being ``step=N.ckpt``; None when there is none.

    What a killed process had written in part is removed.
    """
    for partial in directory.glob(".step=*.tmp"):
        partial.unlink(missing_ok=True)
    found = sorted(directory.glob("step=*.ckpt"), key=lambda p: int(p.stem.removeprefix("step=")))
    return found[-1] if found else None
