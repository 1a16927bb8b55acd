"""Large buffers are reused once the allocator has been told to keep them."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource
import torch
from ssl_audio.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
def work():
    live = [torch.ones(16, 2**20) for _ in range(4)]  # 64 MiB each


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


print(min(faults() for _ in range(8)))  # a busy machine may take pages away in between
"""


def page_faults(keep: bool) -> int:
    script = COUNT_FAULTS.format(keep=keep)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_freed_buffers_are_not_mapped_anew() -> None:
    assert page_faults(keep=True) < page_faults(keep=False) / 4
