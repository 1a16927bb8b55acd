"""Speech to syllabic tokens: a unit, its start and its end (Sylber, arXiv 2410.07168).

Axes: B clips, S samples, T frames, N segments or tokens, D channels, K units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from ssl_audio.batch import IGNORE_CODE, Tokens
from ssl_audio.models.encoder import Encoder
from ssl_audio.tokenizers.nearest import nearest_codes
from ssl_audio.tokenizers.syllables import check_thresholds
from ssl_audio.tokenizers.syllables_batch import pooled_segments, segment_batch, segment_ids
from ssl_audio.tokenizers.teacher_tokens import teacher_rows
from ssl_audio.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class SyllableTokens(Tokens):
    """Tokens with their own times: ``starts`` and ``ends`` (B, N) int64 in frames, -1 for padding.

    ``lengths`` counts tokens.
    """

    starts: Tensor
    ends: Tensor

    def to(self, *args: Any, **kwargs: Any) -> SyllableTokens:
        return SyllableTokens(*(x.to(*args, **kwargs) for x in self._tensors()))

    def pin_memory(self) -> SyllableTokens:
        return SyllableTokens(*(x.pin_memory() for x in self._tensors()))

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.codes, self.lengths, self.starts, self.ends


@dataclass(frozen=True, slots=True)
class SyllableOptions:
    """How segments become tokens.

    Attributes:
        norm_threshold, merge_threshold, reset_counter, min_frames, min_similarity: of
            :func:`ssl_audio.tokenizers.segment_syllables`.
        deduplicate: segments that touch and have the same unit become one token.
        silence_gap_sec: a gap between two segments longer than this is a token as well, of unit K;
            None for no such token.

    Raises:
        ValueError: a value outside its range.
    """

    norm_threshold: float
    merge_threshold: float
    reset_counter: bool = False
    min_frames: int = 0
    min_similarity: float = 0.0
    deduplicate: bool = False
    silence_gap_sec: float | None = None

    def __post_init__(self) -> None:
        check_thresholds(
            self.norm_threshold, self.merge_threshold, self.min_frames, self.min_similarity
        )
        if self.silence_gap_sec is not None and self.silence_gap_sec < 0:
            raise ValueError(f"silence_gap_sec={self.silence_gap_sec}: give seconds, or None")

    def segment(self, features: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, T, 2) segments of (B, T, D) features, -1 after a clip's last."""
        return segment_batch(
            features,
            lengths,
            self.norm_threshold,
            self.merge_threshold,
            reset_counter=self.reset_counter,
            min_frames=self.min_frames,
            min_similarity=self.min_similarity,
        )


class SyllableTokenizer(Tokenizer):
    """Segments of an encoder's frames, and the unit nearest to the mean frame of each.

    ``frame_rate`` is the clock of starts and ends, not a rate of tokens: tokens come as syllables
    do, about four a second. Without units ``codes`` is (B, N, 0) and the times are all there is.

    Args:
        encoder: any encoder; it is set to eval mode and stops collecting gradients.
        centroids: (K, D) units, float32, or None.
        layer: index into the encoder's ``hidden_states``; None for its final ``frames``.
        options: fields of :class:`SyllableOptions`.

    Raises:
        ValueError: an option outside its range, or one that needs units without units.
    """

    kind = "syllables"
    centroids: Tensor | None

    def __init__(
        self,
        encoder: Encoder,
        centroids: Tensor | None = None,
        layer: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.options = SyllableOptions(**options)
        silence = self.options.silence_gap_sec is not None
        if centroids is None and (self.options.deduplicate or silence):
            raise ValueError("deduplicate and silence_gap_sec need units; give centroids")
        self.encoder = encoder
        self.layer = layer
        self.register_buffer("centroids", None if centroids is None else centroids.float())
        self.sample_rate = encoder.sample_rate
        self.frame_rate = encoder.frame_rate / encoder.patches_per_row
        self.num_codebooks = 0 if centroids is None else 1
        self.codebook_size = 0 if centroids is None else len(centroids) + silence
        self.requires_grad_(False)
        self.eval()

    @property
    def config(self) -> dict[str, Any]:
        options = {name: getattr(self.options, name) for name in SyllableOptions.__slots__}
        return {
            "encoder": {"kind": self.encoder.kind, "config": self.encoder.config},
            "layer": self.layer,
            "units": None if self.centroids is None else list(self.centroids.shape),
            **options,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """With zeros for units; the encoder's kind is looked up in :mod:`ssl_audio.hub`."""
        from ssl_audio import hub

        config = dict(config)
        encoder, units = hub.build(config.pop("encoder")), config.pop("units")
        return cls(encoder, None if units is None else torch.zeros(units), **config)

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode: tokens must not depend on who asks for them."""
        return super().train(False)

    def num_frames(self, num_samples: Any) -> Any:
        """Frames of the encoder: the most tokens that there can be."""
        return self.encoder.num_frames(num_samples) // self.encoder.patches_per_row

    @torch.no_grad()
    def encode(self, waveforms: Tensor, lengths: Tensor | None = None) -> SyllableTokens:
        """(B, S) float32 in [-1, 1] and valid samples (B,) to tokens (B, N, 1) with times."""
        return self.tokenize(*teacher_rows(self.encoder, self.layer, waveforms, lengths))

    @torch.no_grad()
    def tokenize(self, frames: Tensor, lengths: Tensor | None = None) -> SyllableTokens:
        """Tokens of the encoder's frames (B, T, D), of which ``lengths`` (B,) are valid."""
        segments = self.options.segment(frames, lengths)
        counts = (segments[..., 0] >= 0).sum(1)
        most = int(counts.max()) if counts.numel() else 0
        segments = segments[:, :most]
        if self.centroids is None:
            codes = segments.new_zeros(*segments.shape[:2], 0)
            return SyllableTokens(codes, counts, *segments.unbind(-1))
        means = pooled_segments(frames, segment_ids(segments, frames.shape[1]), most)
        units = nearest_codes(means, self.centroids)
        if not (self.options.deduplicate or self.options.silence_gap_sec is not None):
            codes = units.masked_fill(segments[..., 0] < 0, IGNORE_CODE)[..., None]
            return SyllableTokens(codes, counts, *segments.unbind(-1))
        rows = torch.cat([units[..., None], segments], -1).tolist()
        return _padded(
            [self._rewritten(row[:n]) for row, n in zip(rows, counts.tolist(), strict=True)],
            frames.device,
        )

    @torch.no_grad()
    def segment_features(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(F, D) float32 mean frames of all segments of the batch, to fit units on."""
        frames, valid = teacher_rows(self.encoder, self.layer, waveforms, lengths)
        segments = self.options.segment(frames, valid)
        means = pooled_segments(frames, segment_ids(segments, frames.shape[1]), frames.shape[1])
        return means[segments[..., 0] >= 0]

    def _rewritten(self, tokens: list[list[int]]) -> list[list[int]]:
        """(unit, start, end) of one clip with equal neighbours joined and silences put in."""
        gap_sec = self.options.silence_gap_sec
        written: list[list[int]] = []
        for unit, start, end in tokens:
            last = written[-1] if written else None
            if last and self.options.deduplicate and last[0] == unit and last[2] == start:
                last[2] = end
                continue
            if last and gap_sec is not None and start - last[2] > gap_sec * self.frame_rate:
                written.append([self.codebook_size - 1, last[2], start])
            written.append([unit, start, end])
        return written


def _padded(clips: list[list[list[int]]], device: torch.device) -> SyllableTokens:
    lengths = torch.tensor([len(clip) for clip in clips], dtype=torch.int64)
    table = torch.full((len(clips), max(map(len, clips), default=0), 3), -1)
    for row, clip in zip(table, clips, strict=True):
        row[: len(clip)] = torch.tensor(clip, dtype=torch.int64).reshape(-1, 3)
    units, starts, ends = table.unbind(-1)
    codes = units.masked_fill(starts < 0, IGNORE_CODE)[..., None]
    return SyllableTokens(codes, lengths, starts, ends).to(device)
