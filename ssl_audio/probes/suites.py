"""Opens a probe suite by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssl_audio.probes.demo import demo_suite
from ssl_audio.probes.folder import FolderLimits, folder_suite
from ssl_audio.probes.suite import ProbeSuite

SUITES = ("demo", "folder")


def open_suite(
    name: str,
    root: str | Path,
    tasks: Sequence[str] | None = None,
    max_clips: int | None = None,
) -> ProbeSuite:
    """The suite ``name`` on the data below ``root``.

    Args:
        name: "demo" (``root`` is the saved demo corpus) or "folder" (``root`` holds
            ``probes/TASK/{train,valid,test}.csv``).
        root: where the data lie.
        tasks: names to keep; None keeps all.
        max_clips: most training clips of a task (folder; half of that for valid, three quarters for
            test), or of a split and domain (demo). None keeps the suite's defaults.

    Raises:
        ValueError: an unknown suite or task, or data that do not fit the layout.
    """
    if max_clips is not None and max_clips < 4:
        raise ValueError(f"max_clips must be at least 4, got {max_clips}")
    if name == "demo":
        return demo_suite(root, tasks, max_clips)
    if name == "folder":
        limits = FolderLimits()
        if max_clips is not None:
            limits = FolderLimits(max_clips, max_clips // 2, 3 * max_clips // 4)
        return folder_suite(root, tasks, limits)
    raise ValueError(f"unknown probe suite {name!r}; suites: {', '.join(SUITES)}")
