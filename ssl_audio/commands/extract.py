"""``ssl-audio extract``: frozen features of any audio on disk."""

from __future__ import annotations

import argparse

from ssl_audio.commands.streaming import add_streaming_options


def add_command(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("extract", help="write frozen features of audio to a folder")
    command.add_argument("--model", required=True, help="anything that load_encoder reads")
    command.add_argument(
        "--input", required=True, help="audio file, folder, manifest, data set or hf:ORG/NAME"
    )
    command.add_argument("--output", required=True, help="folder to write; rerun to continue")
    command.add_argument("--layers", default="last", help="last, all, or numbers such as 0,6,12")
    command.add_argument("--pool", choices=("none", "mean", "mean+std"), default="none")
    command.add_argument(
        "--format", choices=("safetensors", "npy", "parquet"), default="safetensors"
    )
    command.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    command.add_argument("--split", help="of a data set with several")
    command.add_argument("--bf16", action="store_true", help="run the encoder in bfloat16")
    add_streaming_options(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from ssl_audio.extraction import extract
    from ssl_audio.probes.recordings import Windowing

    report = extract(
        arguments.model,
        arguments.input,
        arguments.output,
        layers=arguments.layers,
        pool=arguments.pool,
        file_format=arguments.format,
        dtype=arguments.dtype,
        split=arguments.split,
        device=arguments.device,
        bf16=arguments.bf16,
        batch_sec=arguments.batch_sec,
        windowing=Windowing(arguments.window_sec, arguments.context_sec),
        progress=True,
    )
    print(report)
