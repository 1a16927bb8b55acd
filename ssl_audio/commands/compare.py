"""``ssl-audio compare``: probe results of several models side by side."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_command(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("compare", help="probe results of several models side by side")
    command.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run's folder or an output of ssl-audio probe; NAME=RUN names its column",
    )
    command.add_argument("--output", default="comparison.html", help="the page to write")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from ssl_audio.probes.compare import compare, read_run
    from ssl_audio.probes.table import print_table
    from ssl_audio.report import write_comparison

    runs = [read_run(source) for source in arguments.runs]
    compared = compare(runs)
    for results in compared:
        print_table(results)
    histories = {run.name: run.history for run in runs if run.history is not None}
    print(f"report: {write_comparison(compared, histories, Path(arguments.output))}")
