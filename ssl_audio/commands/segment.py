"""``ssl-audio segment``: syllabic segments of any audio on disk."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ssl_audio.commands.streaming import add_streaming_options, list_skipped

if TYPE_CHECKING:
    from ssl_audio.tokenizers import SyllableTokenizer

# Inference defaults of Berkeley-Speech-Group/sylber at 8287c90, for an encoder without thresholds
NORM_THRESHOLD, MERGE_THRESHOLD = 2.6, 0.8


def add_command(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("segment", help="write syllabic segments of audio to a folder")
    command.add_argument("--model", required=True, help="a syllable tokenizer or any encoder")
    command.add_argument("input", help="audio file, folder, manifest or data set")
    command.add_argument("--output", required=True, help="folder to write")
    command.add_argument("--norm-threshold", type=float, help="least norm of a speech frame")
    command.add_argument("--merge-threshold", type=float, help="least similarity in a segment")
    command.add_argument("--layer", type=int, help="hidden state to segment; the output by default")
    command.add_argument("--plot", action="store_true", help="a picture of each recording's start")
    add_streaming_options(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from ssl_audio.devices import default_device
    from ssl_audio.extraction.inputs import open_input
    from ssl_audio.extraction.segment_files import (
        PLOT_SEC,
        write_plot,
        write_segments,
        write_textgrid,
    )
    from ssl_audio.extraction.writers import file_name
    from ssl_audio.probes.recordings import Windowing, recordings_of
    from ssl_audio.probes.stream import Failure
    from ssl_audio.probes.token_stream import TokenTotals, iter_tokens

    tokenizer = syllable_tokenizer(
        arguments.model, arguments.norm_threshold, arguments.merge_threshold, arguments.layer
    )
    tokenizer.to(default_device(arguments.device))
    source = open_input(arguments.input)
    recordings = recordings_of(source)
    by_id = {recording.id: recording for recording in recordings}
    totals, skipped = TokenTotals(tokenizer.codebook_size), dict(source.skipped)
    output = Path(arguments.output)
    for found in iter_tokens(
        tokenizer,
        recordings,
        batch_sec=arguments.batch_sec,
        windowing=Windowing(arguments.window_sec, arguments.context_sec),
    ):
        if isinstance(found, Failure):
            skipped[found.id] = found.reason
            continue
        totals.add(found)
        stem = output / file_name(found.id)
        write_segments(stem.with_name(f"{stem.name}.jsonl"), found)
        write_textgrid(stem.with_name(f"{stem.name}.TextGrid"), found)
        if arguments.plot:
            waveform = by_id[found.id].read(0.0, PLOT_SEC)
            write_plot(stem.with_name(f"{stem.name}.png"), found, waveform, tokenizer.frame_rate)
    list_skipped(output / "skipped.json", skipped, totals.num_recordings)
    print(f"{output}: {totals}" + (f"; {len(skipped)} skipped" if skipped else ""))


def syllable_tokenizer(
    model: str,
    norm_threshold: float | None = None,
    merge_threshold: float | None = None,
    layer: int | None = None,
) -> SyllableTokenizer:
    """The tokenizer exported as ``model``, or one around the encoder that it names.

    Arguments that are given replace those of the export.

    Raises:
        ValueError: the model cannot be loaded, or an argument outside its range.
    """
    from dataclasses import asdict

    from ssl_audio import hub
    from ssl_audio.tokenizers import SyllableTokenizer

    options = {"norm_threshold": norm_threshold, "merge_threshold": merge_threshold}
    given = {name: value for name, value in options.items() if value is not None}
    if hub.is_tokenizer(model):
        tokenizer = hub.load_tokenizer(model)
        if not isinstance(tokenizer, SyllableTokenizer):
            raise ValueError(
                f"{model} is a tokenizer of kind {tokenizer.kind!r}; segment needs an encoder or a "
                "tokenizer of kind 'syllables', and ssl-audio tokenize reads the others"
            )
        layer = tokenizer.layer if layer is None else layer
        known = asdict(tokenizer.options) | given
        return SyllableTokenizer(tokenizer.encoder, tokenizer.centroids, layer, **known)
    encoder = hub.load_encoder(model)
    if layer is not None and not -encoder.num_layers - 1 <= layer <= encoder.num_layers:
        raise ValueError(f"layer={layer}: {model} has hidden states 0 .. {encoder.num_layers}")
    known = {"norm_threshold": NORM_THRESHOLD, "merge_threshold": MERGE_THRESHOLD} | given
    return SyllableTokenizer(encoder, None, layer, **known)
