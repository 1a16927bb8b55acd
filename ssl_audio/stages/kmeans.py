"""Cluster frames of a teacher into units, and export both as a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import track
from torch import Tensor

from ssl_audio import hub
from ssl_audio.batch import valid_mask
from ssl_audio.devices import default_device
from ssl_audio.models.encoder import Encoder
from ssl_audio.pipeline import RunContext, Stage, provenance
from ssl_audio.stages.common import build_data
from ssl_audio.stages.quantizer import load_teacher
from ssl_audio.tokenizers.kmeans import KMeansTokenizer, fit_kmeans
from ssl_audio.tokenizers.teacher_tokens import teacher_rows


class KMeansStage(Stage):
    """Mini-batch k-means over streamed frames; exports a ``KMeansTokenizer``.

    Runs on rank 0 alone.

    Args:
        teacher: a ``load_encoder`` source or ``stage:NAME``, or ``kind`` and ``config``.
        layer: index into its hidden states, or null for its output.
        num_units: K.
        num_frames: most frames of a pass.
        passes: over the same frames.
        domains: of the clips.
        data: section of the data module.
        device: null picks a GPU if there is one.
        seed: of the run.
    """

    def __init__(
        self,
        teacher: str | Mapping[str, Any],
        layer: int | None,
        num_units: int,
        num_frames: int,
        passes: int,
        domains: Sequence[str],
        data: Mapping[str, Any],
        seed: int,
        device: str | None = None,
    ) -> None:
        self.teacher, self.layer, self.num_units = teacher, layer, num_units
        self.num_frames, self.passes, self.domains = num_frames, passes, domains
        self.data, self.seed, self.device = data, seed, default_device(device)

    def run(self, directory: Path, context: RunContext) -> None:
        source = self.teacher
        teacher = load_teacher(context.resolve(source) if isinstance(source, str) else source)
        units = fit_kmeans(self._frames(teacher.to(self.device)), self.num_units, seed=self.seed)
        tokenizer = KMeansTokenizer(teacher.cpu(), units, self.layer)
        hub.save(tokenizer, directory / "export", provenance(directory))

    def _frames(self, teacher: Encoder) -> Iterator[Tensor]:
        data = build_data(self.data, self.seed)
        for number in range(self.passes):
            count = 0
            batches = data.iter_batches("train", domains=self.domains)
            for batch in track(batches, f"frames, pass {number + 1}", transient=True):
                frames, lengths = teacher_rows(
                    teacher,
                    self.layer,
                    batch.waveforms.to(self.device),
                    batch.lengths.to(self.device),
                )
                yield frames[valid_mask(lengths, frames.shape[1])].cpu()
                count += int(lengths.sum())
                if count >= self.num_frames:
                    break
