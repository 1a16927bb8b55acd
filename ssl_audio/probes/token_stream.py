"""Run a tokenizer over recordings: any tokenizer of the package, long recordings in windows.

Axes: B windows, S samples, T frames, N tokens, Q codebooks.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import Tensor

from ssl_audio.hub import content_hash
from ssl_audio.probes.isolation import device_of, undisturbed
from ssl_audio.probes.metrics.token_quality import bit_rate, token_rate
from ssl_audio.probes.recordings import Recording, Windowing
from ssl_audio.probes.sources import LAST_LAYER, EncoderLayers
from ssl_audio.probes.stream import BATCH_SEC, Failure, iter_features
from ssl_audio.tokenizers.kmeans import KMeansTokenizer
from ssl_audio.tokenizers.syllable_tokenizer import SyllableTokenizer
from ssl_audio.tokenizers.tokenizer import Tokenizer

MAX_EXACT_CODE = 2**24  # codes travel as float32 frames


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Tokens of one recording.

    Attributes:
        id: of the recording.
        duration_sec: of the recording.
        codes: (N, Q) int64; Q is 0 for segments without units.
        start_sec, end_sec: (N,) float64.
        frames: (T, D) that segments were found in, None for tokens on a clock.
    """

    id: str
    duration_sec: float
    codes: np.ndarray
    start_sec: np.ndarray
    end_sec: np.ndarray
    frames: Tensor | None = None


@dataclass
class TokenTotals:
    """Counts over recordings, and the rates that follow from them."""

    codebook_size: int
    num_tokens: int = 0  # of all codebooks
    num_recordings: int = 0
    audio_sec: float = 0.0

    def add(self, found: TokenSequence) -> None:
        self.num_tokens += len(found.codes) * max(1, found.codes.shape[1])
        self.num_recordings += 1
        self.audio_sec += found.duration_sec

    @property
    def tokens_per_sec(self) -> float:
        return token_rate(self.num_tokens, self.audio_sec)

    @property
    def bits_per_sec(self) -> float:
        """Of a code of fixed length, times of tokens not included; NaN without units."""
        if self.codebook_size < 1:
            return math.nan
        return bit_rate(self.tokens_per_sec, self.codebook_size)

    def __str__(self) -> str:
        bits = "" if math.isnan(self.bits_per_sec) else f", {self.bits_per_sec:.1f} bit/s"
        return (
            f"{self.num_recordings} recordings, {self.audio_sec:.1f} s, {self.num_tokens} tokens, "
            f"{self.tokens_per_sec:.2f} tokens/s{bits}"
        )


class CodeFrames:
    """A tokenizer on a clock as a source of frames: its codes, one frame a row."""

    frame_offset_sec = 0.0

    def __init__(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.codebook_size <= MAX_EXACT_CODE
        self.tokenizer = tokenizer
        self.frame_rate = tokenizer.frame_rate
        self.teacher = getattr(tokenizer, "teacher", None)
        self.norms: Any = None

    def within(self, pieces: Iterable[Tensor]) -> Self:
        """See ``RecordingSource``."""
        same = copy.copy(self)
        same.norms = None if self.teacher is None else self.teacher.recording_norms(pieces)
        return same

    @property
    def key(self) -> str:
        return content_hash(self.tokenizer)

    def layers(self, waveforms: Tensor, lengths: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        device = device_of(self.tokenizer)
        teacher = self.teacher
        norms = nullcontext() if teacher is None else teacher.normalizing(self.norms)
        with undisturbed(self.tokenizer), norms:
            tokens = self.tokenizer.encode(waveforms.to(device), lengths.to(device))
        return {LAST_LAYER: tokens.codes.float()}, tokens.lengths


def tokenized_frames(tokenizer: KMeansTokenizer | SyllableTokenizer) -> EncoderLayers:
    """The frames that become units or segments."""
    encoder = tokenizer.teacher if isinstance(tokenizer, KMeansTokenizer) else tokenizer.encoder
    layer = tokenizer.layer
    name = LAST_LAYER if layer is None else str(range(encoder.num_layers + 1)[layer])
    return EncoderLayers(encoder, [name])


def iter_tokens(
    tokenizer: Tokenizer,
    recordings: Sequence[Recording],
    *,
    batch_sec: float = BATCH_SEC,
    windowing: Windowing | None = None,
    deduplicate: bool = False,
) -> Iterator[TokenSequence | Failure]:
    """Tokens of every recording, each exactly once, in an order of its own.

    Syllables are found in the frames of the whole recording, whatever windows its frames came from,
    so a seam is no boundary.

    Args:
        tokenizer: on the device to use.
        batch_sec: padded seconds in a batch.
        windowing: how long recordings are cut.
        deduplicate: of tokens on a clock, equal ones in a row become one with their start and end;
            syllables have an option of their own.

    Raises:
        ValueError: as ``iter_features``.
    """
    if isinstance(tokenizer, SyllableTokenizer):
        source: EncoderLayers | CodeFrames = tokenized_frames(tokenizer)
    else:
        source = CodeFrames(tokenizer)
    stream = iter_features(
        source, recordings, pooling="none", batch_sec=batch_sec, windowing=windowing
    )
    for found in stream:
        if isinstance(found, Failure):
            yield found
            continue
        recording, frames = recordings[found.index], next(iter(found.layers.values()))
        if isinstance(tokenizer, SyllableTokenizer):
            yield _syllables(tokenizer, recording, frames)
        else:
            yield _clocked(tokenizer, recording, frames, deduplicate)


def _syllables(tokenizer: SyllableTokenizer, recording: Recording, frames: Tensor) -> TokenSequence:
    tokens = tokenizer.tokenize(frames[None].to(device_of(tokenizer)))
    starts, ends = (x[0].double().cpu().numpy() / tokenizer.frame_rate
                    for x in (tokens.starts, tokens.ends))  # fmt: skip
    codes = tokens.codes[0].cpu().numpy()
    return TokenSequence(recording.id, recording.duration_sec, codes, starts, ends, frames)


def _clocked(
    tokenizer: Tokenizer, recording: Recording, frames: Tensor, deduplicate: bool
) -> TokenSequence:
    codes = frames.long().numpy()
    edges = np.arange(len(codes) + 1)
    if deduplicate and len(codes):
        new = np.append(True, (codes[1:] != codes[:-1]).any(axis=1))
        edges = np.append(np.flatnonzero(new), len(codes))
        codes = codes[new]
    times = edges / tokenizer.frame_rate
    return TokenSequence(recording.id, recording.duration_sec, codes, times[:-1], times[1:])
