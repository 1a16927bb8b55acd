"""Tasks of a suite shared out over processes of this machine or jobs of a cluster.

A job leaves its finished tasks in the cache of the suite; whoever runs the suite afterwards finds
them there. So nothing has to be collected, and a job that dies costs its own tasks only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

Work = Callable[[Sequence[str], int], list[str]]  # tasks and the job's number to lines of failures


def run_jobs(
    work: Work,
    tasks: Sequence[str],
    count: int,
    cluster: str | None = None,
    options: Mapping[str, Any] | None = None,
    folder: Path = Path("jobs"),
) -> list[str]:
    """Runs ``work`` on ``count`` shares of the tasks at once and waits for all.

    Args:
        work: picklable.
        tasks: names.
        count: of jobs, at least 1.
        cluster: "slurm", "local" or "debug" of submitit; None starts processes here.
        options: of submitit's executor, e.g. ``{"timeout_min": 600, "slurm_partition": "gpu"}``.
        folder: for the logs of submitit.

    Returns:
        One line for each task or job that failed.

    Raises:
        ValueError: no job asked for, or submitit is not installed.
    """
    if count < 1:
        raise ValueError(f"--jobs must be at least 1, got {count}")
    shares = [list(tasks[number::count]) for number in range(min(count, len(tasks)))]
    if cluster is not None:
        return _on_cluster(work, shares, cluster, options or {}, folder)
    threads = max(1, (os.cpu_count() or 1) // max(1, len(shares)))
    with ProcessPoolExecutor(
        max(1, len(shares)), get_context("spawn"), initializer=_set_threads, initargs=(threads,)
    ) as pool:
        waiting = [pool.submit(work, share, number) for number, share in enumerate(shares)]
        return _collected([job.result for job in waiting])


def _on_cluster(
    work: Work, shares: list[list[str]], cluster: str, options: Mapping[str, Any], folder: Path
) -> list[str]:
    try:
        import submitit
    except ImportError as error:
        raise ValueError("--cluster needs pip install 'ssl-audio[cluster]'") from error
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    executor.update_parameters(**{"timeout_min": 24 * 60, "name": "ssl-audio-probe", **options})
    with executor.batch():  # one job array
        waiting = [executor.submit(work, share, number) for number, share in enumerate(shares)]
    return _collected([job.result for job in waiting])


def _collected(results: Sequence[Callable[[], list[str]]]) -> list[str]:
    lines: list[str] = []
    for number, result in enumerate(results):
        try:
            lines += result()
        except Exception as error:  # a job that died; the suite's own run tries its tasks again
            lines.append(f"job {number} failed: {error!r}")
    return lines


def _set_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)
