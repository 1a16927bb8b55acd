"""Encoders: waveform to hidden states."""

from ssl_audio.models.zipformer import Zipformer

__all__ = ["Zipformer"]
