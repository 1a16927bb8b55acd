"""What the commands that stream audio through a model share."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_streaming_options(command: argparse.ArgumentParser) -> None:
    """How audio gets to a model."""
    command.add_argument("--device", help="the GPU if there is one by default")
    command.add_argument("--batch-sec", type=float, default=60.0, help="audio in a batch, seconds")
    command.add_argument(
        "--window-sec", type=float, default=30.72, help="longest piece in one pass"
    )
    command.add_argument("--context-sec", type=float, default=2.56, help="dropped on either side")


def list_skipped(path: Path, skipped: dict[str, str], num_written: int) -> None:
    """Writes what could not be used to ``path``.

    Raises:
        ValueError: nothing could be.
    """
    from ssl_audio.files import write_json

    if not num_written:
        reason = next(iter(skipped.values()), "there is no audio in the input")
        raise ValueError(f"nothing could be used: {reason}")
    if skipped:
        write_json(path, skipped)
    else:
        path.unlink(missing_ok=True)
