"""The interface that every tokenizer of the package shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from ssl_audio.batch import SAMPLE_RATE_HZ, Tokens


class Tokenizer(nn.Module, ABC):
    """Waveform (B, S) to codes (B, T, N) on the tokenizer's own clock.

    Attributes:
        kind: name of the class in exports (``config.json``).
        sample_rate: Hz.
        frame_rate: code frames per second, Hz.
        codebook_size: K, codes lie in 0 .. K - 1.
        num_codebooks: N.
    """

    kind: ClassVar[str]
    sample_rate: int = SAMPLE_RATE_HZ
    frame_rate: float
    codebook_size: int
    num_codebooks: int

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON-able arguments of ``from_config``."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)

    @abstractmethod
    def num_frames(self, num_samples: Any) -> Any:
        """Code frames of a clip of ``num_samples`` (int or int64 Tensor)."""

    @abstractmethod
    def encode(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tokens:
        """(B, S) float32 in [-1, 1] and valid samples (B,), all of S when None."""
