"""``ssl-audio probe``: an encoder and its baselines on a suite of tasks."""

from __future__ import annotations

import argparse


def add_command(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("probe", help="probes on frozen features, as a table")
    command.add_argument("--model", required=True, help="anything that load_encoder reads")
    command.add_argument("--suite", choices=("demo", "folder", "hear"), default="folder")
    command.add_argument("--root", required=True, help="folder of the suite's data")
    command.add_argument("--tasks", help="comma-separated names; all by default")
    command.add_argument("--max-clips", type=int, help="most training clips of a task")
    command.add_argument("--output", default="probes", help="folder for results.json, results.md")
    hear = command.add_argument_group("suite hear")
    hear.add_argument("--protocol", choices=("ours", "heareval"), default="ours")
    hear.add_argument("--layer", default="last", help="last, a number, or concat")
    hear.add_argument(
        "--cache", help="keeps embeddings and finished tasks; OUTPUT/cache by default"
    )
    hear.add_argument("--seed", type=int, default=42, help="of weights and orders")
    hear.add_argument("--bf16", action="store_true", help="multiply by hidden weights in bfloat16")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from ssl_audio.probes.runner import write_results
    from ssl_audio.probes.table import print_table

    tasks = arguments.tasks.split(",") if arguments.tasks else None
    results = _hear(arguments, tasks) if arguments.suite == "hear" else _linear(arguments, tasks)
    print_table(results)
    print(f"results: {write_results(results, arguments.output)}")


def _linear(arguments: argparse.Namespace, tasks: list[str] | None) -> dict:
    from ssl_audio import hub
    from ssl_audio.probes.runner import run_probes
    from ssl_audio.probes.suites import open_suite

    suite = open_suite(arguments.suite, arguments.root, tasks, arguments.max_clips)
    return run_probes(hub.load_encoder(arguments.model), suite, progress=True)


def _hear(arguments: argparse.Namespace, tasks: list[str] | None) -> dict:
    from pathlib import Path

    from ssl_audio import hub
    from ssl_audio.devices import default_device
    from ssl_audio.probes.hear.leaderboard import read_table
    from ssl_audio.probes.hear.run import HearRun, encoder_and_baselines

    device = default_device()
    hear = HearRun(
        Path(arguments.root),
        arguments.protocol,
        Path(arguments.cache or Path(arguments.output) / "cache"),
        seed=arguments.seed,
        device=device,
        bf16=arguments.bf16,
    )
    encoder = hub.load_encoder(arguments.model).to(device)
    sources = encoder_and_baselines(encoder, arguments.layer)
    return hear.suite(sources, read_table(), tasks, arguments.layer)
