"""Cluster an encoder's segments into units, and export encoder and units as a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from ssl_audio import hub
from ssl_audio.batch import AudioBatch, valid_mask
from ssl_audio.data.datamodule import DataModule
from ssl_audio.devices import default_device
from ssl_audio.files import write_json
from ssl_audio.models.encoder import Encoder
from ssl_audio.pipeline import RunContext, Stage, provenance
from ssl_audio.probes.metrics.token_quality import bit_rate, token_rate
from ssl_audio.stages.common import build_data
from ssl_audio.tokenizers import NormThreshold, SyllableTokenizer, fit_kmeans
from ssl_audio.tokenizers.norm_threshold import fit_norm_statistics
from ssl_audio.tokenizers.teacher_tokens import teacher_rows

DOMAINS = ("speech",)
NORM_FRAMES = 200_000  # that tell speech from silence: over an hour


class UnitsStage(Stage):
    """k-means over the mean frames of segments, streamed; exports a ``SyllableTokenizer``.

    Runs on rank 0 alone.

    Args:
        encoder: a ``load_encoder`` source or ``stage:NAME``.
        layer: index into its hidden states, or null for its output.
        segmentation: fields of ``SyllableOptions``; a ``norm_threshold`` of null is fitted to the
            norms of training speech.
        num_units: K.
        passes: over the training speech.
        batch_segments: of one step of k-means.
        data: section of the data module.
        device: null picks a GPU if there is one.
        seed: of the run.
    """

    def __init__(
        self,
        encoder: str,
        layer: int | None,
        segmentation: Mapping[str, Any],
        num_units: int,
        passes: int,
        batch_segments: int,
        data: Mapping[str, Any],
        seed: int,
        device: str | None = None,
    ) -> None:
        self.encoder, self.layer, self.segmentation = encoder, layer, dict(segmentation)
        self.num_units, self.passes, self.batch_segments = num_units, passes, batch_segments
        self.data, self.seed, self.device = data, seed, default_device(device)

    def run(self, directory: Path, context: RunContext) -> None:
        encoder = hub.load_encoder(context.resolve(self.encoder)).to(self.device)
        data = build_data(self.data, self.seed)
        options = dict(self.segmentation)
        if options["norm_threshold"] is None:
            options["norm_threshold"] = self._norm_threshold(encoder, data)
        # Also checks the options before the long part; joining and silences need units.
        plain = {"deduplicate": False, "silence_gap_sec": None}
        segmenter = SyllableTokenizer(encoder, None, self.layer, **options | plain)
        counts: list[int] = []
        seconds: list[float] = []

        def segment_features() -> Iterator[Tensor]:
            for epoch in range(self.passes):
                for batch in self._speech(data, f"segments, pass {epoch + 1}", epoch):
                    vectors = segmenter.segment_features(batch.waveforms, batch.lengths)
                    counts.append(len(vectors))
                    seconds.append(float(batch.lengths.sum()) / encoder.sample_rate)
                    yield vectors

        units = fit_kmeans(
            segment_features(), self.num_units, seed=self.seed, batch_size=self.batch_segments
        )
        tokenizer = SyllableTokenizer(encoder, units.to(self.device), self.layer, **options)
        rate = token_rate(sum(counts), sum(seconds))
        bits = bit_rate(rate, self.num_units)
        found = {
            "norm_threshold": options["norm_threshold"],
            "num_segments": sum(counts) // self.passes,
            "segments_per_sec": rate,
            "bits_per_sec": bits,
        }
        write_json(directory / "metrics.json", found)
        print(
            f"{self.num_units} units of {found['num_segments']} segments, {rate:.2f} a second "
            f"({bits:.1f} bit/s), norm threshold {options['norm_threshold']:.3f}"
        )
        hub.save(tokenizer.cpu(), directory / "export", provenance(directory))

    def _norm_threshold(self, encoder: Encoder, data: DataModule) -> float:
        norms, count = [], 0
        for batch in self._speech(data, "norms of speech and silence"):
            frames, lengths = teacher_rows(encoder, self.layer, batch.waveforms, batch.lengths)
            norms.append(frames.norm(dim=-1)[valid_mask(lengths, frames.shape[1])].cpu())
            count += len(norms[-1])
            if count >= NORM_FRAMES:
                break
        return NormThreshold(**fit_norm_statistics(torch.cat(norms)), decay=1.0)().item()

    def _speech(self, data: DataModule, title: str, epoch: int = 0) -> Iterator[AudioBatch]:
        batches = data.iter_batches("train", domains=DOMAINS, epoch=epoch)
        for batch in track(batches, title, transient=True):
            yield batch.to(self.device)
