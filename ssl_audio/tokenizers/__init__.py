"""Waveforms or frames to discrete codes."""

from ssl_audio.tokenizers.distilled import DistilledTokenizer
from ssl_audio.tokenizers.ema_codebook import EMACodebook
from ssl_audio.tokenizers.estimator import Estimator
from ssl_audio.tokenizers.kmeans import KMeansTokenizer, fit_kmeans
from ssl_audio.tokenizers.mincut import min_cut, segment_min_cut
from ssl_audio.tokenizers.mvq import MultiCodebookQuantizer, QuantizerLosses
from ssl_audio.tokenizers.mvq_trainer import QuantizerTrainer
from ssl_audio.tokenizers.norm_threshold import NormThreshold
from ssl_audio.tokenizers.random_projection import RandomProjectionTokenizer
from ssl_audio.tokenizers.syllable_tokenizer import SyllableTokenizer, SyllableTokens
from ssl_audio.tokenizers.syllables import segment_syllables
from ssl_audio.tokenizers.teacher_tokens import MVQTokenizer
from ssl_audio.tokenizers.tokenizer import Tokenizer

__all__ = [
    "DistilledTokenizer",
    "EMACodebook",
    "Estimator",
    "KMeansTokenizer",
    "MVQTokenizer",
    "MultiCodebookQuantizer",
    "NormThreshold",
    "QuantizerLosses",
    "QuantizerTrainer",
    "RandomProjectionTokenizer",
    "SyllableTokenizer",
    "SyllableTokens",
    "Tokenizer",
    "fit_kmeans",
    "min_cut",
    "segment_min_cut",
    "segment_syllables",
]
