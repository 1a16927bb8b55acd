"""Run an encoder over every clip of an input and write what comes out; resumable."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_audio import hub
from ssl_audio.data.source import Source
from ssl_audio.devices import default_device
from ssl_audio.extraction.inputs import open_input
from ssl_audio.extraction.writers import Writer, writer_of
from ssl_audio.files import write_json
from ssl_audio.models.encoder import Encoder
from ssl_audio.probes.recordings import Recording, Windowing, recordings_of
from ssl_audio.probes.sources import LAST_LAYER, EncoderLayers
from ssl_audio.probes.stream import (
    BATCH_SEC,
    EXTRACTOR,
    Failure,
    FeaturePooling,
    Features,
    iter_features,
)

DESCRIPTION_FILE = "features.json"
SKIPPED_FILE = "skipped.json"
POOLINGS: dict[str, FeaturePooling] = {"none": "none", "mean": "mean", "mean+std": "mean_std"}
DTYPES: dict[str, type[np.floating[Any]]] = {"float32": np.float32, "float16": np.float16}


@dataclass(frozen=True, slots=True)
class ExtractionReport:
    """What one call did.

    Attributes:
        directory: with the features, ``features.json`` and, when clips were skipped,
            ``skipped.json`` (id to reason).
        num_written: clips of this call.
        num_present: clips that an earlier call had written.
        num_skipped: clips that could not be used, over all calls.
        audio_sec: duration of what this call wrote.
        seconds: that it took.
    """

    directory: Path
    num_written: int
    num_present: int
    num_skipped: int
    audio_sec: float
    seconds: float

    def __str__(self) -> str:
        speed = self.audio_sec / max(self.seconds, 1e-9)
        parts = [
            f"{self.directory}: {self.num_written} clips, {self.audio_sec / 3600:.2f} h in "
            f"{self.seconds:.0f} s ({speed:.0f} audio-hours per hour)"
        ]
        if self.num_present:
            parts.append(f"{self.num_present} were there already")
        if self.num_skipped:
            parts.append(f"{self.num_skipped} skipped, see {SKIPPED_FILE}")
        return "; ".join(parts)


def extract(
    model: str | Path | Encoder,
    input: str | Path | Source,
    output: str | Path,
    *,
    layers: str | Sequence[int | str] = LAST_LAYER,
    pool: str = "none",
    file_format: str = "safetensors",
    dtype: str = "float32",
    split: str | None = None,
    device: str | None = None,
    bf16: bool = False,
    batch_sec: float = BATCH_SEC,
    windowing: Windowing | None = None,
    progress: bool = False,
) -> ExtractionReport:
    """Write frozen features of every clip of ``input`` below ``output``.

    A killed call that is repeated goes on where it stopped. Clips that cannot be decoded are
    counted and listed in ``skipped.json``.

    Args:
        model: an encoder, or what ``ssl_audio.load_encoder`` reads.
        input: an audio file, folder, manifest, data set (see ``extraction.inputs``), or a source.
        output: a folder.
        layers: "last" (the encoder's output), "all" hidden states, or some of them, "0,6,12".
        pool: "none" for (T, D) frames, "mean" for (D,), "mean+std" for (2 D,).
        file_format: "safetensors" or "npy" (a file per clip), or "parquet".
        dtype: of the stored values, "float32" or "float16".
        split: of a data set with several.
        device: by default the GPU if there is one.
        bf16: run the encoder in bfloat16 autocast.
        batch_sec: padded seconds in a batch.
        windowing: how long recordings are cut.
        progress: show a bar with the speed in audio-hours per hour.

    Raises:
        ValueError: an argument or input that cannot be used, no usable clip at all, or an
            ``output`` that holds other features.
    """
    if pool not in POOLINGS:
        raise ValueError(f"unknown pooling {pool!r}; use {', '.join(POOLINGS)}")
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; use {', '.join(DTYPES)}")
    writer_class = writer_of(file_format)
    encoder = model if isinstance(model, Encoder) else hub.load_encoder(model)
    names = layer_names(layers, encoder)
    encoder = encoder.to(default_device(device))
    autocast = torch.bfloat16 if bf16 else None
    features = EncoderLayers(encoder, names, autocast, patches="apart")
    source = input if isinstance(input, Source) else open_input(input, split)
    windowing = windowing or Windowing()
    description = {
        "extractor": EXTRACTOR,
        "encoder": features.key,
        "layers": names or "all",
        "pooling": pool,
        "dtype": dtype,
        "format": file_format,
        "window_sec": windowing.window_sec,
        "context_sec": windowing.context_sec,
        "frame_rate_hz": encoder.frame_rate,
        "first_frame_centre_sec": features.frame_offset_sec + 0.5 / encoder.frame_rate,
    }
    if file_format == "parquet":  # parts are counted along the input
        description["input"] = _fingerprint(source)
    directory = Path(output)
    _claim(directory, description)
    metadata = {name: str(value) for name, value in description.items() if name != "layers"}
    durations = [clip.duration_sec for clip in source.clips]
    writer = writer_class(directory, [clip.id for clip in source.clips], durations, metadata)
    run = _Run(writer, source, DTYPES[dtype])
    stream = partial(
        iter_features,
        features,
        pooling=POOLINGS[pool],
        batch_sec=batch_sec,
        windowing=windowing,
    )
    with _progress_bar(progress, sum(durations)) as advance:
        return run.extract(stream, advance)


def layer_names(layers: str | Sequence[int | str], encoder: Encoder) -> list[str] | None:
    """Names of the layers asked for; None stands for all.

    Raises:
        ValueError: a layer that the encoder does not have.
    """
    if layers == "all":
        return None
    names = [str(x).strip() for x in (layers.split(",") if isinstance(layers, str) else layers)]
    known = {LAST_LAYER, *map(str, range(encoder.num_layers + 1))}
    for name in names:
        if name not in known:
            raise ValueError(
                f"no layer {name!r}; use last, all, or numbers from 0 to {encoder.num_layers}"
            )
    return names


class _Run:
    """Takes features from the stream to the writer; counts, and lists what was skipped."""

    def __init__(self, writer: Writer, source: Source, dtype: type[np.floating[Any]]) -> None:
        self.writer, self.source, self.dtype = writer, source, dtype
        self.written, self.audio_sec = 0, 0.0
        self.ids = {clip.id for clip in source.clips}
        path = writer.directory / SKIPPED_FILE
        earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.skipped = {name: reason for name, reason in earlier.items() if name in self.ids}
        self.skipped |= dict(source.skipped)

    def extract(
        self,
        stream: Callable[[Sequence[Recording]], Iterator[Features | Failure]],
        advance: Callable[[float], None],
    ) -> ExtractionReport:
        started = time.monotonic()
        recordings = recordings_of(self.source)
        for block in self.writer.blocks():
            for found in stream([recordings[i] for i in block]):
                self._take(block[found.index], found)
                advance(self.audio_sec)
            self._list_skipped()
            self.writer.finish_block()
        self._list_skipped()
        present = len(self.ids - self.skipped.keys()) - self.written
        if self.written + present == 0:
            first = next(iter(self.skipped.values()))
            raise ValueError(f"none of {len(self.ids)} clips could be used; the first: {first}")
        return ExtractionReport(
            self.writer.directory,
            self.written,
            present,
            len(self.skipped),
            self.audio_sec,
            time.monotonic() - started,
        )

    def _take(self, index: int, found: Features | Failure) -> None:
        if isinstance(found, Failure):
            self.skipped[found.id] = found.reason
            return
        arrays = {name: x.numpy().astype(self.dtype) for name, x in found.layers.items()}
        self.writer.add(index, arrays, found.num_frames)
        self.written += 1
        self.audio_sec += self.source.clips[index].duration_sec
        self.skipped.pop(found.id, None)  # a file mended since the last call

    def _list_skipped(self) -> None:
        path = self.writer.directory / SKIPPED_FILE
        if self.skipped:
            write_json(path, self.skipped)
        else:
            path.unlink(missing_ok=True)


def _claim(directory: Path, description: dict[str, Any]) -> None:
    """Writes what the folder is going to hold, or checks that it holds just that."""
    path = directory / DESCRIPTION_FILE
    if not path.is_file():
        write_json(path, description)
        return
    try:
        present = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable ({error}); choose another folder") from error
    for name in sorted(present.keys() | description.keys()):
        ours, theirs = (json.dumps(x.get(name)) for x in (description, present))
        if ours != theirs:
            raise ValueError(
                f"{directory} holds features of another extraction ({name}: {theirs} there, "
                f"{ours} now); choose another folder"
            )


def _fingerprint(source: Source) -> str:
    clips = [(clip.id, clip.num_samples, clip.sample_rate_hz) for clip in source.clips]
    return hashlib.sha256(repr(clips).encode()).hexdigest()[:16]


@contextmanager
def _progress_bar(shown: bool, total: float) -> Iterator[Callable[[float], None]]:
    """A bar over ``total`` seconds of audio that takes those that are done."""
    if not shown:
        yield lambda done: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("extracting"),
        BarColumn(),
        TextColumn("{task.fields[hours]}"),
        TimeRemainingColumn(),
    )
    started = time.monotonic()
    with Progress(*columns) as bar:
        task = bar.add_task("extracting", total=total, hours="")

        def advance(done: float) -> None:
            speed = done / max(time.monotonic() - started, 1e-9)
            hours = f"{done / 3600:.2f} of {total / 3600:.2f} h, {speed:.0f} h/h"
            bar.update(task, completed=done, hours=hours)

        yield advance
