"""``ssl-audio probe``: a model and its baselines on a suite of tasks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ssl_audio.probes.task_suite import TaskSuite

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
    command.add_argument(
        "--model", required=True, help="anything that load_encoder reads; suite tokens: a tokenizer"
    )
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
    command.add_argument("--seed", type=int, default=42, help="of heads and orders")
    command.add_argument(
        "--untrained-seed", type=int, default=0, help="of the untrained encoder: the run's seed"
    )
    command.add_argument("--bf16", action="store_true", help="hear: hidden weights in bfloat16")
    command.add_argument("--max-steps", type=int, help="superb: most steps of a head")
    command.add_argument(
        "--layer-norm", action="store_true", help="superb: normalise layers before their sum"
    )
    command.add_argument("--device", help="the GPU if there is one by default")
    command.add_argument("--output", default="probes", help="folder for results.json, .md, .html")
    command.add_argument("--cache", help="keeps finished work; OUTPUT/cache by default")
    command.add_argument(
        "--probes",
        default="linear,boundaries",
        help="demo, folder: comma-separated, of linear, knn, ridge, superb_linear, hear_mlp and "
        "boundaries",
    )
    command.add_argument("--jobs", type=int, default=1, help="processes that share the tasks")
    command.add_argument("--cluster", help="run the jobs with submitit: slurm, local or debug")
    command.add_argument(
        "--cluster-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of submitit, e.g. slurm_partition=gpu gpus_per_node=1; may be repeated",
    )
    command.set_defaults(run=run, progress=True)


def run(arguments: argparse.Namespace) -> None:
    from ssl_audio.probes.runner import write_results
    from ssl_audio.probes.table import print_table
    from ssl_audio.report import write_probe_report

    arguments.cache = Path(arguments.cache or Path(arguments.output) / "cache")
    tasks = arguments.tasks.split(",") if arguments.tasks else None
    if arguments.jobs != 1 or arguments.cluster:
        _share_out(arguments, tasks)
    results = SUITES[arguments.suite].run(arguments, tasks)
    print_table(results)
    path = write_results(results, arguments.output)
    page = write_probe_report(results, path.with_suffix(".html"), f"Probes of {arguments.model}")
    print(f"results: {path}\nreport:  {page}")


def _share_out(arguments: argparse.Namespace, tasks: Sequence[str] | None) -> None:
    """Fills the cache by several jobs."""
    import yaml

    from ssl_audio.probes.jobs import run_jobs

    pairs = [option.partition("=") for option in arguments.cluster_option]
    if wrong := [key for key, equals, _ in pairs if not equals]:
        raise ValueError(f"--cluster-option {wrong[0]}: write KEY=VALUE")
    failures = run_jobs(
        partial(run_job, arguments),
        tasks or SUITES[arguments.suite].tasks(arguments),
        arguments.jobs,
        arguments.cluster,
        {key: yaml.safe_load(value) for key, _, value in pairs},
        Path(arguments.output) / "jobs",
    )
    for line in failures:
        print(line, file=sys.stderr)


def run_job(arguments: argparse.Namespace, tasks: Sequence[str], number: int) -> list[str]:
    """Leaves the tasks in the cache, each by itself; a line for each that failed."""
    import torch

    gpus = torch.cuda.device_count()
    if gpus > 1 and not arguments.device:
        arguments.device = f"cuda:{number % gpus}"
    arguments.progress = False  # bars of several processes would overwrite each other
    failures = []
    for task in tasks:
        try:
            SUITES[arguments.suite].run(arguments, [task])
        except ValueError as error:
            failures.append(f"task {task}: {error}")
    return failures


def _linear_tasks(arguments: argparse.Namespace) -> Sequence[str]:
    from ssl_audio.probes.suites import open_suite

    return [task.name for task in open_suite(_kind(arguments), arguments.root).tasks]


def _linear(arguments: argparse.Namespace, tasks: Sequence[str] | None) -> Results:
    from ssl_audio import hub
    from ssl_audio.devices import default_device
    from ssl_audio.probes.classify import ProbeSettings
    from ssl_audio.probes.runner import run_probes
    from ssl_audio.probes.sources import untrained_twin
    from ssl_audio.probes.suites import open_suite

    suite = open_suite(arguments.suite, arguments.root, tasks, arguments.max_clips)
    encoder = hub.load_encoder(arguments.model).to(default_device(arguments.device))
    layers = None if arguments.layers in (None, "all") else [arguments.layers]
    return run_probes(
        encoder,
        suite,
        untrained=untrained_twin(encoder, arguments.untrained_seed),
        layers=layers,
        probes=arguments.probes.split(","),
        settings=ProbeSettings(patches=arguments.patches),
        cache_dir=arguments.cache,
        progress=arguments.progress,
    )


def _tokens(arguments: argparse.Namespace, tasks: Sequence[str] | None) -> Results:
    from ssl_audio import hub
    from ssl_audio.devices import default_device
    from ssl_audio.probes.suites import open_suite
    from ssl_audio.probes.token_suite import abx_of_root, probe_tokens

    suite = open_suite(_kind(arguments), arguments.root, tasks, arguments.max_clips)
    tokenizer = hub.load_tokenizer(arguments.model).to(default_device(arguments.device))
    return probe_tokens(
        tokenizer,
        suite,
        abx_of_root(Path(arguments.root), suite),
        cache_dir=arguments.cache,
        progress=arguments.progress,
    )


def _kind(arguments: argparse.Namespace) -> str:
    """Whose labels suite "tokens" takes: the demo corpus', or those of a folder with probes."""
    if arguments.suite != "tokens":
        return arguments.suite
    root = Path(arguments.root)
    return "folder" if root.name == "probes" or (root / "probes").is_dir() else "demo"


def _task_suite(arguments: argparse.Namespace) -> TaskSuite[Any, Any]:
    from dataclasses import fields
    from importlib import import_module

    from ssl_audio.devices import default_device

    module, name = TASK_SUITES[arguments.suite].split(":")
    suite = getattr(import_module(module), name)
    device = default_device(arguments.device)
    given = vars(arguments) | {"cache_dir": arguments.cache, "layer": arguments.layers}
    known = {field.name for field in fields(suite)} & given.keys()
    options = {name: given[name] for name in known if given[name] is not None}
    return suite(**options | {"device": device})


def _task_names(arguments: argparse.Namespace) -> Sequence[str]:
    return _task_suite(arguments).present()


def _tasks(arguments: argparse.Namespace, tasks: Sequence[str] | None) -> Results:
    from ssl_audio import hub

    suite = _task_suite(arguments)
    encoder = hub.load_encoder(arguments.model).to(suite.device)
    return suite.probe(encoder, tasks, arguments.untrained_seed)


def _syllable_tasks(arguments: argparse.Namespace) -> Sequence[str]:
    from ssl_audio.probes.syllable_corpora import syllable_corpora

    return [corpus.name for corpus in syllable_corpora(arguments.root)]


def _syllables(arguments: argparse.Namespace, tasks: Sequence[str] | None) -> Results:
    from ssl_audio import hub
    from ssl_audio.devices import default_device
    from ssl_audio.models.encoder import Encoder
    from ssl_audio.probes.sources import untrained_twin
    from ssl_audio.probes.syllable_corpora import syllable_corpora
    from ssl_audio.probes.syllable_suite import SyllableSettings, probe_syllables
    from ssl_audio.tokenizers import SyllableTokenizer

    model: SyllableTokenizer | Encoder
    if hub.is_tokenizer(arguments.model):
        tokenizer = hub.load_tokenizer(arguments.model)
        if not isinstance(tokenizer, SyllableTokenizer):
            raise ValueError(
                f"{arguments.model} is a tokenizer of kind {tokenizer.kind!r}; suite syllables "
                "needs an encoder or one of kind 'syllables'"
            )
        model, encoder = tokenizer, tokenizer.encoder
    else:
        model = encoder = hub.load_encoder(arguments.model)
    last, device = arguments.layers in (None, "last"), default_device(arguments.device)
    return probe_syllables(
        model.to(device),
        syllable_corpora(arguments.root, tasks),
        layer=None if last else int(arguments.layers),
        untrained=untrained_twin(encoder, arguments.untrained_seed).to(device),
        settings=SyllableSettings(seed=arguments.seed),
        cache_dir=arguments.cache,
        progress=arguments.progress,
    )


TASK_SUITES = {
    "hear": "ssl_audio.probes.hear.run:HearRun",
    "superb": "ssl_audio.probes.superb.run:SuperbRun",
    "xares": "ssl_audio.probes.xares.run:XaresRun",
}
SUITES = {
    "demo": Suite(_linear_tasks, _linear),
    "folder": Suite(_linear_tasks, _linear),
    "tokens": Suite(_linear_tasks, _tokens),
    "syllables": Suite(_syllable_tasks, _syllables),
    **dict.fromkeys(TASK_SUITES, Suite(_task_names, _tasks)),
}
