"""The ``ssl-audio`` command: everything around training that needs no configuration."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from ssl_audio.commands import compare, extract, probe, segment, tokenize


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one sub-command; what the user can mend ends in one line and status 2."""
    parser = argparse.ArgumentParser(prog="ssl-audio", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_manifest, _add_export):
        add(commands)
    for module in (probe, compare, extract, segment, tokenize):
        module.add_command(commands)
    parsed = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = parsed.run
    try:
        run(parsed)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def _add_manifest(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("manifest", help="list the audio below a folder as jsonl")
    command.add_argument("root", help="folder with audio files")
    command.add_argument("output", help="the manifest to write, FILE.jsonl")
    command.add_argument("--domain", choices=("speech", "audio"), help="of all clips")
    command.add_argument("--decode", action="store_true", help="decode every file to the end")
    command.set_defaults(run=_manifest)


def _manifest(arguments: argparse.Namespace) -> None:
    from ssl_audio.data.manifest import build_manifest

    report = build_manifest(
        arguments.root, arguments.output, domain=arguments.domain, decode=arguments.decode
    )
    print(report)


def _add_export(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "export", help="turn a checkpoint into config.json and model.safetensors"
    )
    command.add_argument("source", help="anything that ssl_audio.load_encoder reads")
    command.add_argument("output", help="the folder to write")
    command.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> None:
    from ssl_audio import hub

    encoder = hub.load_encoder(arguments.source)
    hub.save(encoder, arguments.output, {"source": arguments.source})
    print(f"{arguments.output}: {encoder.kind}, {encoder.embed_dim} channels at "
          f"{encoder.frame_rate:g} Hz")  # fmt: skip


if __name__ == "__main__":
    main()
