"""Noise and other speakers under normalised speech (Sylber, arXiv 2410.07168; its ``noise.py``).

What happens to a clip is a function of the seed, its place in the data plan and the clips of its
micro-batch. Axes: B clips, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ssl_audio.rng import sample_generator

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class NoiseDraws:
    """Everything that is random about one batch: (B,) uniform in [0, 1), and ``other`` (B,) int64.

    ``augment``: whether a clip is changed; ``utterance``: by whom; ``shift``, ``side``: which part
    of the other utterance; ``noise_gain``, ``utterance_gain``: how loud; ``other``: the utterance.
    """

    augment: Tensor
    utterance: Tensor
    shift: Tensor
    side: Tensor
    noise_gain: Tensor
    utterance_gain: Tensor
    other: Tensor

    def to(self, device: torch.device) -> NoiseDraws:
        return NoiseDraws(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True, slots=True)
class NoiseMixing:
    """How often and how loud.

    Attributes:
        augment_prob: share of the clips that get an interferer.
        utterance_prob: share of those whose interferer is another utterance, not noise.
        shift_range: which share of the utterance, from one side, is left out.
        gain_range: of noise, relative to speech of unit variance.
        max_utterance_gain: upper end of that range for utterances.

    Raises:
        ValueError: a probability outside 0 .. 1, or a range from high to low.
    """

    augment_prob: float
    utterance_prob: float
    shift_range: Range
    gain_range: Range
    max_utterance_gain: float

    def __post_init__(self) -> None:
        for name in ("augment_prob", "utterance_prob"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"noise_mixing.{name}={getattr(self, name)}: choose one in 0 .. 1")
        low, high = self.gain_range
        if not 0.0 <= low <= min(high, self.max_utterance_gain):
            raise ValueError(
                f"noise_mixing.gain_range={low} .. {high} and max_utterance_gain="
                f"{self.max_utterance_gain}: ranges run from low to high"
            )
        if not 0.0 <= self.shift_range[0] <= self.shift_range[1] <= 1.0:
            raise ValueError(f"noise_mixing.shift_range={self.shift_range}: choose it in 0 .. 1")

    def __call__(self, speech: Tensor, noise: Tensor | None, draws: NoiseDraws) -> Tensor:
        """(B, S) speech of unit variance with interferers; the level is not normalised again.

        Args:
            noise: (B, S) one piece for each clip, unit variance; None when there is no noise, then
                every interferer is an utterance.
        """
        relative = torch.linspace(0, 1, speech.shape[1], device=speech.device)
        mirrored = draws.side[:, None] < 0.5
        position = torch.where(mirrored, 1 - relative, relative)
        utterance = speech[draws.other] * (
            position > _within(draws.shift, self.shift_range)[:, None]
        )
        low = self.gain_range[0]
        gain = _within(draws.utterance_gain, (low, self.max_utterance_gain))
        interferer = gain[:, None] * utterance
        if noise is not None:
            louder = _within(draws.noise_gain, self.gain_range)[:, None] * noise
            by_speaker = (draws.utterance < self.utterance_prob)[:, None]
            interferer = torch.where(by_speaker, interferer, louder)
        return speech + interferer * (draws.augment < self.augment_prob)[:, None]


def draw_noise(sample_index: Tensor, seed: int, purpose: str) -> NoiseDraws:
    """The draws of the clips at ``sample_index`` (B,); the other utterance is any of them."""
    rows = []
    for index in sample_index.tolist():
        rng = sample_generator(seed, purpose, index)
        rows.append((*rng.random(6), rng.integers(len(sample_index))))
    columns = torch.tensor(rows, dtype=torch.float64).reshape(-1, 7).unbind(1)
    return NoiseDraws(*[column.float() for column in columns[:6]] + [columns[6].long()])


def noise_pieces(
    noise: Sequence[Tensor], sample_index: Tensor, num_samples: int, seed: int, purpose: str
) -> Tensor:
    """(B, num_samples): for each clip a random noise, cropped at random or placed in silence.

    Args:
        noise: (S_i,) each, at least one.
    """
    pieces = noise[0].new_zeros(len(sample_index), num_samples)
    for piece, index in zip(pieces, sample_index.tolist(), strict=True):
        rng = sample_generator(seed, purpose, index)
        source = noise[int(rng.integers(len(noise)))]
        room = num_samples - len(source)
        start = int(rng.integers(abs(room) + 1))
        if room >= 0:
            piece[start : start + len(source)] = source
        else:
            piece[:] = source[start : start + num_samples]
    return pieces


def _within(uniform: Tensor, limits: Range) -> Tensor:
    low, high = limits
    return low + (high - low) * uniform
