"""One self-contained HTML page per run."""

from ssl_audio.report.page import write_report

__all__ = ["write_report"]
