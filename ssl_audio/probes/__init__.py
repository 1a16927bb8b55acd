"""Linear probes on frozen features, with their baselines. Only ``callback`` needs Lightning."""

from ssl_audio.probes.classify import ProbeScore, ProbeSettings
from ssl_audio.probes.runner import probe_sources, run_probes, write_results
from ssl_audio.probes.suite import Example, ProbeClip, ProbeSuite, ProbeTask
from ssl_audio.probes.suites import open_suite
from ssl_audio.probes.table import markdown_table, print_table

__all__ = [
    "Example",
    "ProbeClip",
    "ProbeScore",
    "ProbeSettings",
    "ProbeSuite",
    "ProbeTask",
    "markdown_table",
    "open_suite",
    "print_table",
    "probe_sources",
    "run_probes",
    "write_results",
]
