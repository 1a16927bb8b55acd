"""Mixing augmentations of a batch (SPEAR, arXiv 2510.25955; WavLM, arXiv 2110.13900).

Utterance mixing adds a piece of another clip and keeps the targets (SPEAR's first models). Token
mixing adds a whole other clip and mixes the targets as well (its "v2" models). What happens to a
clip is a function of the seed, its place in the data plan and the clips of its micro-batch. Added
clips are always the unmixed ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ssl_audio.batch import AUDIO, IGNORE_CODE, SAMPLE_RATE_HZ, SPEECH, AudioBatch, Tokens
from ssl_audio.rng import sample_generator

Range = tuple[float, float]
SILENCE_POWER = 1e-10  # -100 dB of full scale: too little to set a level by


@dataclass(frozen=True, slots=True)
class Overlap:
    """Samples ``start`` .. ``start + length`` of a clip meet ``source_start`` .. of another."""

    start: int
    source_start: int
    length: int


def mix_utterances(
    batch: AudioBatch,
    *,
    seed: int,
    speech_prob: float,
    noise_prob: float,
    audio_prob: float,
    speech_snr_db: Range = (-5.0, 5.0),
    speech_share: Range = (0.2, 0.5),
    noise_snr_db: Range = (5.0, 20.0),
    noise_share: Range = (0.2, 0.8),
    audio_noise_share: Range = (0.2, 0.99),
) -> AudioBatch:
    """Add a random piece of another clip of the batch to some clips; targets stay (spec 2.6a).

    A speech clip gets, with ``speech_prob``, noise (then with ``noise_prob``) or speech; a general
    audio clip gets noise with ``audio_prob``. Noise is the batch's general audio. A clip for which
    the batch has no such other clip gets the other kind if it is speech, else stays clean.

    Args:
        batch: is not changed.
        seed: the run's seed.
        speech_prob: share of speech clips that are mixed.
        noise_prob: share of those that get noise rather than speech.
        audio_prob: share of general audio clips that get noise.
        speech_snr_db, noise_snr_db: range of the signal-to-noise ratio on the overlap, dB.
        speech_share, noise_share, audio_noise_share: range of the overlap, as a share of the clip.

    Raises:
        ValueError: a probability or share outside [0, 1], or a range from high to low.
    """
    _check_probs(speech_prob=speech_prob, noise_prob=noise_prob, audio_prob=audio_prob)
    shares = (speech_share, noise_share, audio_noise_share)
    _check_ranges(speech_snr_db, noise_snr_db, *shares)
    for low, high in shares:
        _check_probs(overlap_low=low, overlap_high=high)
    lengths, domains = batch.lengths_on_cpu.tolist(), batch.domains.tolist()
    waveforms = batch.waveforms.clone()
    for clip, index in enumerate(batch.sample_index.tolist()):
        rng = sample_generator(seed, "utterance_mixing", index)
        is_speech = domains[clip] == SPEECH
        if rng.random() >= (speech_prob if is_speech else audio_prob):
            continue
        noise = _others(domains, clip, AUDIO)
        speech = _others(domains, clip, SPEECH) if is_speech else []
        if not noise and not speech:
            continue
        wants_noise = not is_speech or rng.random() < noise_prob
        if noise and (wants_noise or not speech):
            other, snr_range = rng.choice(noise), noise_snr_db
            share_range = noise_share if is_speech else audio_noise_share
        else:
            other, snr_range, share_range = rng.choice(speech), speech_snr_db, speech_share
        snr_db, share = float(rng.uniform(*snr_range)), float(rng.uniform(*share_range))
        overlap = _random_piece(rng, lengths[clip], lengths[other], share)
        _add(waveforms[clip], batch.waveforms[clip], batch.waveforms[other], overlap, snr_db)
    return replace(batch, waveforms=waveforms)


def mix_tokens(
    batch: AudioBatch,
    codes: Mapping[str, Tokens],
    frame_rates: Mapping[str, float],
    *,
    seed: int,
    prob: float,
    snr_db: Range = (-5.0, 5.0),
) -> tuple[AudioBatch, dict[str, Tokens]]:
    """Add a whole other clip of the batch, delayed, to some clips and mix the codes (spec 2.6b).

    On the overlap each code is replaced by the other clip's code of the same instant, with the
    probability that is the other clip's share of the power. Positions where either clip has no
    code keep what they have, and so do clips mixed with silence.

    Args:
        batch: is not changed.
        codes: teacher name to codes of the clean clips; not changed.
        frame_rates: the same names to Hz.
        seed: the run's seed.
        prob: share of the clips that are mixed.
        snr_db: range of the power ratio of the clip to the added one on the overlap, dB.

    Raises:
        ValueError: ``prob`` outside [0, 1], ``snr_db`` from high to low, or a teacher whose frame
            is not a whole number of samples.
    """
    _check_probs(prob=prob)
    _check_ranges(snr_db)
    hops = {name: _hop(name, frame_rates[name]) for name in sorted(codes)}
    grid = math.lcm(*hops.values())
    lengths = batch.lengths_on_cpu.tolist()
    waveforms = batch.waveforms.clone()
    mixed = {name: tokens.codes.clone() for name, tokens in codes.items()}
    for clip, index in enumerate(batch.sample_index.tolist()):
        rng = sample_generator(seed, "token_mixing", index)
        if rng.random() >= prob or len(batch) < 2:
            continue
        other = (clip + int(rng.integers(1, len(batch)))) % len(batch)
        snr = float(rng.uniform(*snr_db))
        overlap = _random_delay(rng, lengths[clip], lengths[other], grid)
        audible = _add(waveforms[clip], batch.waveforms[clip], batch.waveforms[other], overlap, snr)
        share = 1.0 / (1.0 + 10.0 ** (snr / 10.0))
        for name, hop in hops.items():
            original = codes[name].codes
            _replace_codes(
                mixed[name][clip],
                original[clip],
                original[other],
                audible,
                overlap,
                hop,
                share,
                rng,
            )
    tokens = {name: Tokens(mixed[name], codes[name].lengths) for name in codes}
    return replace(batch, waveforms=waveforms), tokens


def _add(out: Tensor, clip: Tensor, other: Tensor, overlap: Overlap, snr_db: float) -> Tensor:
    """Add the piece of ``other`` to ``out`` in place; () bool, False if either was silent."""
    start, length = overlap.start, overlap.length
    piece = other[overlap.source_start : overlap.source_start + length]
    power = clip[start : start + length].square().mean()
    piece_power = piece.square().mean()
    audible = (power > SILENCE_POWER) & (piece_power > SILENCE_POWER)
    gain = (power * 10.0 ** (-snr_db / 10.0) / piece_power).sqrt()
    out[start : start + length] += torch.where(audible, gain, 0.0) * piece
    return audible


def _replace_codes(
    out: Tensor,
    clip: Tensor,
    other: Tensor,
    audible: Tensor,
    overlap: Overlap,
    hop: int,
    share: float,
    rng: np.random.Generator,
) -> None:
    """Mix the codes (T, N) of the frames that lie wholly in the overlap, in place."""
    first = -(-overlap.start // hop)
    shift = (overlap.source_start - overlap.start) // hop
    num_frames = (overlap.start + overlap.length) // hop - first
    chosen = torch.from_numpy(rng.random((max(num_frames, 0), clip.shape[1])) < share)
    # Codes may end before the audio does.
    num_frames = max(0, min(num_frames, len(clip) - first, len(other) - first - shift))
    ours = clip[first : first + num_frames]
    theirs = other[first + shift : first + shift + num_frames]
    chosen = chosen[:num_frames].to(out.device) & audible
    chosen &= (ours != IGNORE_CODE) & (theirs != IGNORE_CODE)
    out[first : first + num_frames] = torch.where(chosen, theirs, ours)


def _random_piece(
    rng: np.random.Generator, num_samples: int, other_samples: int, share: float
) -> Overlap:
    """A piece of the other clip, anywhere in it, placed anywhere inside the clip."""
    length = min(round(share * num_samples), other_samples)
    start = int(rng.integers(num_samples - length + 1))
    return Overlap(start, int(rng.integers(other_samples - length + 1)), length)


def _random_delay(
    rng: np.random.Generator, num_samples: int, other_samples: int, grid: int
) -> Overlap:
    """The whole other clip, shifted by a multiple of ``grid`` samples.

    The paper does not say how the delay is drawn. Here the other clip starts at the latest in the
    middle of the clip and loses at the most its own first half, so at least half of the shorter
    one overlaps.
    """
    latest, earliest = num_samples // (2 * grid), other_samples // (2 * grid)
    delay = grid * int(rng.integers(-earliest, latest + 1))
    start, source_start = max(delay, 0), max(-delay, 0)
    return Overlap(start, source_start, min(num_samples - start, other_samples - source_start))


def _others(domains: list[int], clip: int, domain: int) -> list[int]:
    return [i for i, other in enumerate(domains) if i != clip and other == domain]


def _hop(name: str, frame_rate: float) -> int:
    hop = round(SAMPLE_RATE_HZ / frame_rate)
    if abs(hop * frame_rate / SAMPLE_RATE_HZ - 1.0) > 1e-6:
        raise ValueError(
            f"teacher {name!r}: a frame at {frame_rate:g} Hz is not a whole number of samples at "
            f"{SAMPLE_RATE_HZ} Hz, so its codes cannot be mixed; switch token mixing off"
        )
    return hop


def _check_probs(**probs: float) -> None:
    for name, prob in probs.items():
        if not 0.0 <= prob <= 1.0:
            raise ValueError(f"mixing: {name} is {prob}, choose a value in [0, 1]")


def _check_ranges(*ranges: Range) -> None:
    for low, high in ranges:
        if low > high:
            raise ValueError(f"mixing: the range {low} .. {high} runs from high to low")
