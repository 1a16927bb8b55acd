"""Waveforms or frames to discrete codes."""

from ssl_audio.tokenizers.mvq import MultiCodebookQuantizer
from ssl_audio.tokenizers.tokenizer import Tokenizer

__all__ = ["MultiCodebookQuantizer", "Tokenizer"]
