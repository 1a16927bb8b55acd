"""Waveforms or frames to discrete codes."""

from ssl_audio.tokenizers.mvq import MultiCodebookQuantizer, QuantizerLosses
from ssl_audio.tokenizers.mvq_trainer import QuantizerTrainer
from ssl_audio.tokenizers.teacher_tokens import MVQTokenizer
from ssl_audio.tokenizers.tokenizer import Tokenizer

__all__ = [
    "MVQTokenizer",
    "MultiCodebookQuantizer",
    "QuantizerLosses",
    "QuantizerTrainer",
    "Tokenizer",
]
