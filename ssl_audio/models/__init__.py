"""Encoders: waveform to hidden states."""

from ssl_audio.models.beats import BeatsEncoder
from ssl_audio.models.dasheng_encoder import DashengEncoder
from ssl_audio.models.encoder import Encoder
from ssl_audio.models.hubert import HubertEncoder
from ssl_audio.models.huggingface_encoder import HuggingFaceEncoder
from ssl_audio.models.spectral import LogSpectrumEncoder, MfccEncoder
from ssl_audio.models.torchaudio_encoder import TorchaudioEncoder
from ssl_audio.models.zipformer import Zipformer

__all__ = [
    "BeatsEncoder",
    "DashengEncoder",
    "Encoder",
    "HubertEncoder",
    "HuggingFaceEncoder",
    "LogSpectrumEncoder",
    "MfccEncoder",
    "TorchaudioEncoder",
    "Zipformer",
]
