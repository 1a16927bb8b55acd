"""Front ends: waveforms (B, S) at 16 kHz to features (B, T, F), always float32."""

from ssl_audio.frontends.kaldi import KaldiFbank

__all__ = ["KaldiFbank"]
