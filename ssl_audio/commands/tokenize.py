"""``ssl-audio tokenize``: discrete tokens of any audio on disk, with any tokenizer."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ssl_audio.commands.streaming import add_streaming_options, list_skipped


def add_command(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("tokenize", help="write discrete tokens of audio as JSON lines")
    command.add_argument("--model", required=True, help="an exported tokenizer")
    command.add_argument("input", help="audio file, folder, manifest or data set")
    command.add_argument("--output", required=True, help="the file to write, FILE.jsonl")
    command.add_argument(
        "--deduplicate", action="store_true", help="equal tokens in a row become one, with times"
    )
    add_streaming_options(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """One line per recording: ``id``, ``duration_sec``, ``codes`` (N lists of Q) and, where tokens
    have times of their own, ``start_sec`` and ``end_sec``."""
    from ssl_audio import hub
    from ssl_audio.devices import default_device
    from ssl_audio.extraction.inputs import open_input
    from ssl_audio.files import replacing
    from ssl_audio.probes.recordings import Windowing, recordings_of
    from ssl_audio.probes.stream import Failure
    from ssl_audio.probes.token_stream import TokenTotals, iter_tokens
    from ssl_audio.tokenizers import SyllableTokenizer

    tokenizer = hub.load_tokenizer(arguments.model).to(default_device(arguments.device))
    timed = isinstance(tokenizer, SyllableTokenizer) or arguments.deduplicate
    source = open_input(arguments.input)
    totals, skipped = TokenTotals(tokenizer.codebook_size), dict(source.skipped)
    output = Path(arguments.output)
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8") as file:
        for found in iter_tokens(
            tokenizer,
            recordings_of(source),
            batch_sec=arguments.batch_sec,
            windowing=Windowing(arguments.window_sec, arguments.context_sec),
            deduplicate=arguments.deduplicate,
        ):
            if isinstance(found, Failure):
                skipped[found.id] = found.reason
                continue
            totals.add(found)
            row = {
                "id": found.id,
                "duration_sec": found.duration_sec,
                "codes": found.codes.tolist(),
            }
            if timed:
                row |= {"start_sec": found.start_sec.tolist(), "end_sec": found.end_sec.tolist()}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        list_skipped(
            output.with_name(f"{output.name}.skipped.json"), skipped, totals.num_recordings
        )
    print(f"{output}: {totals}" + (f"; {len(skipped)} skipped" if skipped else ""))
