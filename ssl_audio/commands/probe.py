"""``ssl-audio probe``: a model and its baselines on a suite of tasks."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Results = dict[str, Any]  # see ssl_audio.probes.runner


class Suite(NamedTuple):
    """How a suite is run from the command line.

    Attributes:
        tasks: names of the tasks below ``--root``, what ``--jobs`` shares out.
        run: arguments and the names asked for (None for all) to results. What is finished is kept
            below ``--cache`` and not computed again.
    """

    tasks: Callable[[argparse.Namespace], Sequence[str]]
    run: Callable[[argparse.Namespace, Sequence[str] | None], Results]


def add_command(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("probe", help="probes on frozen features, as a table")
    command.add_argument("--model", required=True, help="anything that load_encoder reads")
    command.add_argument("--suite", choices=tuple(SUITES), default="folder")
    command.add_argument("--root", required=True, help="folder of the suite's data")
    command.add_argument("--tasks", help="comma-separated names; all by default")
    command.add_argument(
        "--layers", help="last, a number, all, concat or sum; the suite's own choice by default"
    )
    command.add_argument(
        "--patches",
        choices=("concat", "mean"),
        default="concat",
        help="of an encoder of patches, what makes a frame: all of a time side by side, or a mean",
    )
    command.add_argument("--max-clips", type=int, help="demo, folder: training clips of a task")
    command.add_argument("--protocol", choices=("ours", "heareval", "compat"), default="ours")
    command.add_argument("--seed", type=int, default=42, help="of weights and orders")
    command.add_argument("--bf16", action="store_true", help="hear: hidden weights in bfloat16")
    command.add_argument("--max-steps", type=int, help="superb: most steps of a head")
    command.add_argument(
        "--layer-norm", action="store_true", help="superb: normalise layers before their sum"
    )
    command.add_argument("--device", help="the GPU if there is one by default")
    command.add_argument("--output", default="probes", help="folder for results.json, .md, .html")
    command.add_argument("--cache", help="keeps finished work; OUTPUT/cache by default")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from ssl_audio.probes.runner import write_results
    from ssl_audio.probes.table import print_table

    arguments.cache = Path(arguments.cache or Path(arguments.output) / "cache")
    tasks = arguments.tasks.split(",") if arguments.tasks else None
    results = SUITES[arguments.suite].run(arguments, tasks)
    print_table(results)
    print(f"results: {write_results(results, arguments.output)}")


def _linear_tasks(arguments: argparse.Namespace) -> Sequence[str]:
    from ssl_audio.probes.suites import open_suite

    return [task.name for task in open_suite(arguments.suite, arguments.root).tasks]


def _linear(arguments: argparse.Namespace, tasks: Sequence[str] | None) -> Results:
    from ssl_audio import hub
    from ssl_audio.devices import default_device
    from ssl_audio.probes.classify import ProbeSettings
    from ssl_audio.probes.runner import run_probes
    from ssl_audio.probes.suites import open_suite

    suite = open_suite(arguments.suite, arguments.root, tasks, arguments.max_clips)
    encoder = hub.load_encoder(arguments.model).to(default_device(arguments.device))
    layers = None if arguments.layers in (None, "all") else [arguments.layers]
    settings = ProbeSettings(patches=arguments.patches)
    return run_probes(
        encoder, suite, layers=layers, settings=settings, cache_dir=arguments.cache, progress=True
    )


def _hear_tasks(arguments: argparse.Namespace) -> Sequence[str]:
    from ssl_audio.probes.hear.folder import METADATA_FILE

    return sorted(path.parent.name for path in Path(arguments.root).glob(f"*/{METADATA_FILE}"))


def _hear(arguments: argparse.Namespace, tasks: Sequence[str] | None) -> Results:
    from ssl_audio import hub
    from ssl_audio.devices import default_device
    from ssl_audio.probes.hear.leaderboard import read_table
    from ssl_audio.probes.hear.run import HearRun, encoder_and_baselines

    device = default_device(arguments.device)
    hear = HearRun(
        Path(arguments.root),
        arguments.protocol,
        arguments.cache,
        seed=arguments.seed,
        device=device,
        bf16=arguments.bf16,
    )
    encoder = hub.load_encoder(arguments.model).to(device)
    layer = arguments.layers or "last"
    sources = encoder_and_baselines(encoder, layer, patches=arguments.patches)
    return hear.suite(sources, read_table(), tasks, layer)


def _superb_tasks(arguments: argparse.Namespace) -> Sequence[str]:
    from ssl_audio.probes.superb.run import read_tables

    return list(read_tables()[0])


def _superb(arguments: argparse.Namespace, tasks: Sequence[str] | None) -> Results:
    from ssl_audio import hub
    from ssl_audio.devices import default_device
    from ssl_audio.probes.hear.run import CONCAT, encoder_and_baselines
    from ssl_audio.probes.superb.run import SuperbRun, read_tables
    from ssl_audio.probes.superb.task import Settings

    if arguments.layers == CONCAT:
        raise ValueError("SUPERB learns a sum of layers; use --layers sum, last or a number")
    device = default_device(arguments.device)
    settings = Settings(
        arguments.protocol,
        arguments.seed,
        device,
        arguments.cache,
        max_steps=arguments.max_steps,
        progress=True,
    )
    superb = SuperbRun(Path(arguments.root), settings, arguments.layer_norm)
    encoder = hub.load_encoder(arguments.model).to(device)
    every = arguments.layers in (None, "sum", "all")
    layer = CONCAT if every else arguments.layers
    sources = encoder_and_baselines(encoder, layer, patches=arguments.patches)
    return superb.suite(sources, *read_tables(), tasks)


SUITES = {
    "demo": Suite(_linear_tasks, _linear),
    "folder": Suite(_linear_tasks, _linear),
    "hear": Suite(_hear_tasks, _hear),
    "superb": Suite(_superb_tasks, _superb),
}
