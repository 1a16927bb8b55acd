"""The interface that every encoder of the package shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from ssl_audio.batch import SAMPLE_RATE_HZ, EncoderOutput, full_lengths


class Encoder(nn.Module, ABC):
    """Waveform (B, S) to hidden states on one clock.

    Subclasses set the four numbers below, a front end (``features``) and a body
    (``forward_features``). ``config`` rebuilds the module through ``from_config``; both, with the
    state dict, are all that an export holds.

    Attributes:
        kind: name of the class in exports (``config.json``).
        sample_rate: Hz.
        embed_dim: channels of ``EncoderOutput.frames``.
        num_layers: ``hidden_states`` has ``num_layers + 1`` entries, the first is the body's input.
        frame_rate: frames per second, Hz.
        patches_per_row: consecutive frames that stand for the same stretch of time, by rising
            frequency; 1 but for encoders of spectrogram patches.
    """

    kind: ClassVar[str]
    sample_rate: int = SAMPLE_RATE_HZ
    embed_dim: int
    num_layers: int
    frame_rate: float
    patches_per_row: int = 1

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """JSON-able arguments of ``from_config``."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)

    @abstractmethod
    def num_frames(self, num_samples: Any) -> Any:
        """Output frames of a clip of ``num_samples`` (int or int64 Tensor): the only clock."""

    @abstractmethod
    def features(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Front end, always float32: (B, S), (B,) to features (B, T_in, ...) and their lengths."""

    @abstractmethod
    def forward_features(self, features: Tensor, lengths: Tensor | None = None) -> EncoderOutput:
        """Body: features (B, T_in, ...) and their lengths to the output."""

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> EncoderOutput:
        """(B, S) float32 in [-1, 1] and valid samples (B,), all of S when None."""
        if lengths is None:
            lengths = full_lengths(waveforms)
        features, feature_lengths = self.features(waveforms, lengths)
        return self.forward_features(features, feature_lengths)

    def recording_norms(self, pieces: Iterable[Tensor]) -> Any:
        """What ``normalizing`` takes for windows of a recording, which comes in pieces (S,).

        None for an encoder that has no norm over time.
        """
        return None

    def normalizing(self, norms: Any) -> AbstractContextManager[None]:
        """Inside, norms over time are those of ``recording_norms``; None: of each clip, as ever."""
        return nullcontext()
