"""Frozen features of any audio on disk: ``ssl-audio extract`` and ``ssl_audio.extract``."""

from ssl_audio.extraction.run import ExtractionReport, extract

__all__ = ["ExtractionReport", "extract"]
