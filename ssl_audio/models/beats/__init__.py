"""BEATs: the encoder over spectrogram patches, and the Transformer that its other parts reuse."""

from ssl_audio.models.beats.config import BeatsConfig, TransformerConfig
from ssl_audio.models.beats.model import BeatsEncoder
from ssl_audio.models.beats.transformer import Transformer

__all__ = ["BeatsConfig", "BeatsEncoder", "Transformer", "TransformerConfig"]
