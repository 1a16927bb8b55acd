"""What flows between data, encoders and tokenizers, and the length arithmetic they share.

Axes: B clips, S samples, T frames, D channels, N codebooks. Time is dim 1, features are the last
dim; ``lengths`` are int64 counts of valid entries along dim 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

SAMPLE_RATE_HZ = 16_000
SPEECH, AUDIO = 0, 1  # AudioBatch.domains
IGNORE_CODE = -100  # a position without a target


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """``frames`` (B, T, D), ``lengths`` (B,), ``hidden_states`` num_layers + 1 of (B, T, D)."""

    frames: Tensor
    lengths: Tensor
    hidden_states: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Tokens:
    """``codes`` (B, T, N) int64 and ``lengths`` (B,); padding holds ``IGNORE_CODE``."""

    codes: Tensor
    lengths: Tensor

    def to(self, *args: Any, **kwargs: Any) -> Tokens:
        return Tokens(self.codes.to(*args, **kwargs), self.lengths.to(*args, **kwargs))

    def pin_memory(self) -> Tokens:
        return Tokens(self.codes.pin_memory(), self.lengths.pin_memory())


@dataclass(frozen=True, slots=True)
class AudioBatch:
    """One padded micro-batch of mono 16 kHz clips.

    Attributes:
        waveforms: (B, S) float32 in [-1, 1], zeros after each clip's end.
        lengths: (B,) int64, valid samples.
        domains: (B,) int64, ``SPEECH`` or ``AUDIO``.
        sample_index: (B,) int64, the clip's position in the run's data plan. No two draws of a run
            share it, so randomness seeded with it does not depend on ranks or accumulation.
        ids: one name per clip, for messages.
        codes: stored teacher tokens by teacher name (``tokens=stored``), else empty.
        host_lengths: ``lengths`` on the CPU, kept when the batch moves, for drawing masks without
            waiting for the device. ``sample_index`` stays on the CPU for the same reason.
    """

    waveforms: Tensor
    lengths: Tensor
    domains: Tensor
    sample_index: Tensor
    ids: tuple[str, ...]
    codes: dict[str, Tokens] = field(default_factory=dict)
    host_lengths: Tensor | None = None

    def __len__(self) -> int:
        return self.waveforms.shape[0]

    @property
    def lengths_on_cpu(self) -> Tensor:
        """``host_lengths``, or ``lengths`` of a batch that has not moved."""
        return self.lengths if self.host_lengths is None else self.host_lengths

    def to(self, *args: Any, **kwargs: Any) -> AudioBatch:
        return replace(
            self,
            waveforms=self.waveforms.to(*args, **kwargs),
            lengths=self.lengths.to(*args, **kwargs),
            domains=self.domains.to(*args, **kwargs),
            codes={name: tokens.to(*args, **kwargs) for name, tokens in self.codes.items()},
            host_lengths=self.lengths_on_cpu,
        )

    def pin_memory(self) -> AudioBatch:
        """Called by loaders: pinned memory moves to a GPU without waiting."""
        return replace(
            self,
            waveforms=self.waveforms.pin_memory(),
            lengths=self.lengths.pin_memory(),
            domains=self.domains.pin_memory(),
            codes={name: tokens.pin_memory() for name, tokens in self.codes.items()},
        )


def valid_mask(lengths: Tensor, max_length: int) -> Tensor:
    """(B, max_length) bool, True where the position lies before the clip's end."""
    return torch.arange(max_length, device=lengths.device) < lengths[:, None]


def full_lengths(x: Tensor) -> Tensor:
    """(B,) int64 lengths for a batch without padding, ``x`` (B, T, ...)."""
    return torch.full((x.shape[0],), x.shape[1], dtype=torch.int64, device=x.device)
