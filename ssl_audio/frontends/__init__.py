"""Front ends: waveforms (B, S) at 16 kHz to features (B, T, F), always float32."""

from ssl_audio.frontends.frontend import FrontEnd
from ssl_audio.frontends.kaldi import KaldiFbank
from ssl_audio.frontends.spectral import CqtSpectrogram, MelSpectrogram

__all__ = ["CqtSpectrogram", "FrontEnd", "KaldiFbank", "MelSpectrogram"]
