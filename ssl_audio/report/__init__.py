"""Self-contained HTML pages: of a run, of a model's probes, of several models."""

from ssl_audio.report.page import write_report
from ssl_audio.report.probes import write_comparison, write_probe_report

__all__ = ["write_comparison", "write_probe_report", "write_report"]
