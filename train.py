"""Pre-train an audio encoder: ``python train.py experiment=spear_unified``.

Composes the configuration and runs the experiment's stages in order, skipping what is done and
continuing what is not. ``python train.py --help`` lists the groups, ``--cfg job`` prints the
config.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import hydra
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from ssl_audio.config import (
    CONFIG_DIR,
    build_stages,
    check_arguments,
    overrides_first,
    register_resolvers,
)
from ssl_audio.memory import keep_freed_memory
from ssl_audio.pipeline import RunContext, run_stages
from ssl_audio.probes.table import print_table
from ssl_audio.report import write_report


def run(config: DictConfig) -> Path:
    """Run all stages of ``config``; returns the run's folder.

    Raises:
        ValueError: something that the user can mend, in one line.
    """
    run_dir = Path(config.run_dir).absolute()
    stages = build_stages(config)
    if config.trainer.fast_dev_run and rank_zero_only.rank == 0:
        for name in stages:  # what a dry run leaves must not be taken for work
            shutil.rmtree(run_dir / name, ignore_errors=True)
    run_stages(stages, RunContext(run_dir))
    if rank_zero_only.rank == 0:
        _summarise(run_dir, list(stages), config.result)
    return run_dir


def _summarise(run_dir: Path, stages: Sequence[str], result: str) -> None:
    """The tables of probes, and where everything lies; ``result`` is the stage with the encoder."""
    for name in stages:
        path = run_dir / name / "results.json"
        results = json.loads(path.read_text()) if path.exists() else {}
        if "suite" in results:
            print_table(results)
    for label, value in (
        ("run folder", run_dir),
        ("report", write_report(run_dir)),
        ("curves", f"tensorboard --logdir {run_dir}"),
        ("encoder", run_dir / result / "export"),
    ):
        print(f"{label + ':':12}{value}")


@hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")
def _hydra_main(config: DictConfig) -> None:
    try:
        run(config)
    except (ValueError, OSError, ImportError) as error:
        _fail(error)


def main() -> None:
    keep_freed_memory()
    register_resolvers()
    logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it reports each file it reads
    warnings.filterwarnings("ignore", message=".*treespec", module="lightning")  # its own affair
    sys.argv[1:] = overrides_first(sys.argv[1:])
    try:
        check_arguments(sys.argv[1:])
    except ValueError as error:
        _fail(error)
    _hydra_main()


def _fail(error: Exception) -> None:
    """One line and status 2; the traceback too when HYDRA_FULL_ERROR=1 asks for it."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
