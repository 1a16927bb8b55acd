"""The built-in corpus: synthesised speech, sound events and notes."""

from ssl_audio.data.demo.corpus import build_demo_corpus

__all__ = ["build_demo_corpus"]
