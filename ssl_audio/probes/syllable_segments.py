"""Segments of recordings and their mean frames: of an encoder with thresholds, or the valleys of
mel energy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from ssl_audio.models.encoder import Encoder
from ssl_audio.probes.segmentation import score_segmentation
from ssl_audio.probes.sources import LogMelFrames
from ssl_audio.probes.stream import BATCH_SEC, Failure
from ssl_audio.probes.syllable_corpora import SyllableRecording
from ssl_audio.probes.token_stream import TokenSequence, iter_tokens
from ssl_audio.tokenizers import SyllableTokenizer, segment_syllables
from ssl_audio.tokenizers.energy_valleys import energy_valleys
from ssl_audio.tokenizers.syllables import segment_means

# Of frames, taken for silence.
NORM_QUANTILES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
MERGE_QUANTILES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6)  # of similarities at MERGE_SEC
MERGE_THRESHOLD = 0.8  # the paper's, tried as well
MERGE_SEC = 0.1  # half of a syllable
TIE = 1e-6  # of the largest value; closer ones differ by rounding, as norms behind a LayerNorm do

Segments = Iterator[tuple[TokenSequence, np.ndarray] | Failure]


def segments_of(
    tokenizer: SyllableTokenizer | None,
    recordings: Sequence[SyllableRecording],
    batch_sec: float = BATCH_SEC,
) -> Segments:
    """Segments of each recording and their (N, D) mean frames; of a tokenizer, or the valleys with
    log-mel frames."""
    if tokenizer is None:
        yield from _valley_segments(recordings)
        return
    rate = tokenizer.frame_rate
    for found in iter_tokens(tokenizer, [r.recording for r in recordings], batch_sec=batch_sec):
        if isinstance(found, Failure):
            yield found
        else:
            assert found.frames is not None
            yield replace(found, frames=None), _means(found, found.frames.numpy(), rate)


def _valley_segments(recordings: Sequence[SyllableRecording]) -> Segments:
    log_mel = LogMelFrames()
    for item in recordings:
        waveform = item.recording.read(0.0, None)
        waves = torch.from_numpy(waveform)[None]
        frames = log_mel.layers(waves, torch.tensor([len(waveform)]))[0][log_mel.layer][0]
        found = _sequence(item, energy_valleys(waveform), 1.0)
        yield found, _means(found, frames.numpy(), log_mel.frame_rate)


def _means(found: TokenSequence, frames: np.ndarray, frame_rate: float) -> np.ndarray:
    edges = np.stack([found.start_sec, found.end_sec], axis=1) * frame_rate
    edges = np.round(edges).astype(np.int64).clip(0, len(frames))
    edges[:, 0] = np.minimum(edges[:, 0], edges[:, 1] - 1).clip(0)
    return segment_means(frames, edges)


def best_thresholds(
    encoder: Encoder,
    valid: Sequence[SyllableRecording],
    layer: int | None = None,
    batch_sec: float = BATCH_SEC,
) -> SyllableTokenizer:
    """The encoder with the thresholds whose boundaries have the best F1 on ``valid``.

    Candidates are quantiles of the frames' norms and of the similarities of frames
    ``MERGE_SEC`` apart, so that any encoder has a fair choice. They lie between values that differ
    by more than rounding, so that no batch size changes what is above.
    """
    whole = SyllableTokenizer(encoder, None, layer, norm_threshold=0.0, merge_threshold=-1.0)
    frames = {
        found.id: found.frames.numpy()
        for found in iter_tokens(whole, [item.recording for item in valid], batch_sec=batch_sec)
        if not isinstance(found, Failure) and found.frames is not None
    }
    if not frames:
        raise ValueError("no valid recording can be read")
    lag = max(1, round(MERGE_SEC * whole.frame_rate))
    norms = np.concatenate([np.linalg.norm(x, axis=1) for x in frames.values()])
    similarities = np.concatenate([_similarities(x, lag) for x in frames.values()])
    best: tuple[float, float, float] | None = None
    for norm in _candidates(norms, NORM_QUANTILES, 0.0):
        for merge in [MERGE_THRESHOLD, *_candidates(similarities, MERGE_QUANTILES, -1.0)]:
            tokens = {
                item.recording.id: _sequence(
                    item, segment_syllables(frames[item.recording.id], norm, min(merge, 1.0)),
                    whole.frame_rate,
                )
                for item in valid
                if item.recording.id in frames
            }  # fmt: skip
            f1 = score_segmentation(valid, tokens, valid, tokens).f1
            if best is None or f1 > best[0]:
                best = f1, norm, min(merge, 1.0)
    assert best is not None
    return SyllableTokenizer(encoder, None, layer, norm_threshold=best[1], merge_threshold=best[2])


def _candidates(values: np.ndarray, quantiles: Sequence[float], lowest: float) -> list[float]:
    """The nearest gaps below the quantiles; ``lowest`` where there is none."""
    ordered = np.sort(values.astype(np.float64))
    gaps = np.flatnonzero(np.diff(ordered) > TIE * np.abs(ordered).max(initial=0.0))
    found = set()
    for quantile in quantiles:
        below = gaps[gaps < quantile * len(ordered)]
        found.add(float(ordered[below[-1] : below[-1] + 2].mean()) if len(below) else lowest)
    return sorted(found)


def _similarities(frames: np.ndarray, lag: int) -> np.ndarray:
    x = torch.from_numpy(frames)
    return cosine_similarity(x[lag:], x[:-lag], dim=1).numpy()


def _sequence(item: SyllableRecording, segments: np.ndarray, frame_rate: float) -> TokenSequence:
    times = segments.reshape(-1, 2) / frame_rate
    codes = np.zeros((len(times), 0), np.int64)
    recording = item.recording
    return TokenSequence(recording.id, recording.duration_sec, codes, times[:, 0], times[:, 1])
