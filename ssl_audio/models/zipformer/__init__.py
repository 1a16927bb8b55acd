"""Zipformer: the encoder, and the training-only machinery around it."""

from ssl_audio.models.zipformer.config import ZipformerConfig
from ssl_audio.models.zipformer.model import Zipformer

__all__ = ["Zipformer", "ZipformerConfig"]
