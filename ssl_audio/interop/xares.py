"""Our encoders for X-ARES' own runner.

    SSL_AUDIO_MODEL=EXPORT python -m xares.run ssl_audio/interop/xares.py src/tasks/*.py

The runner takes the one name of a file that ends in "Encoder", so this file has no other. Source of
the contract: xares 0.1.3, ``audio_encoder_checker.py``.

Axes: B clips, S samples, T frames, D channels.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from ssl_audio.batch import SAMPLE_RATE_HZ
from ssl_audio.interop import frozen
from ssl_audio.probes.sources import LAST_LAYER

VARIABLE = "SSL_AUDIO_MODEL"


class SslAudioEncoder(frozen.FrozenEncoder):
    """The output of an encoder.

    Args:
        source: anything that ``ssl_audio.load_encoder`` opens; empty takes it from the environment.

    Attributes:
        sampling_rate: Hz.
        output_dim: D.
        hop_size_in_ms: from one frame to the next.

    Raises:
        ValueError: no model, or one that cannot be opened.
    """

    sampling_rate = SAMPLE_RATE_HZ

    def __init__(self, source: str = "") -> None:
        source = source or os.environ.get(VARIABLE, "")
        if not source:
            raise ValueError(f"no model; set {VARIABLE} to the folder of an exported encoder")
        super().__init__(source, [LAST_LAYER])
        self.output_dim = self.widths[LAST_LAYER]
        self.hop_size_in_ms = 1000 / self.source.frame_rate

    def forward(self, audio: Tensor) -> Tensor:
        """(B, S) or (S,) at 16 kHz to (B, T, D)."""
        return torch.stack([x[LAST_LAYER] for x in self.layers(list(torch.atleast_2d(audio)))])
