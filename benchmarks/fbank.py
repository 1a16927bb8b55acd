"""Kaldi filterbank of a batch against a loop over torchaudio.compliance.kaldi.fbank, per clip.

    python benchmarks/fbank.py

One thread, runs interleaved, median of process CPU time. On a GPU, when there is one, wall time
with both on the device. Target on CPU: 2.5 times the loop at 16 x 10 s.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchaudio.compliance import kaldi

from ssl_audio.frontends import KaldiFbank

BATCHES = [(16, 10.0), (64, 1.0), (1, 60.0)]  # clips, seconds
ROUNDS = 15


def loop(waveforms: Tensor) -> Tensor:
    features = [
        kaldi.fbank(clip[None], num_mel_bins=128, dither=0.0, snip_edges=False, high_freq=-400.0)
        for clip in waveforms
    ]
    return torch.stack(features)


def cpu_seconds(call: Callable[[Tensor], Tensor], waveforms: Tensor) -> float:
    start = time.process_time()
    call(waveforms)
    return time.process_time() - start


def gpu_seconds(call: Callable[[Tensor], Tensor], waveforms: Tensor) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    call(waveforms)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def report(device: str) -> None:
    fbank = KaldiFbank().to(device)
    seconds = cpu_seconds if device == "cpu" else gpu_seconds
    for num_clips, duration_sec in BATCHES:
        waveforms = 0.1 * torch.randn(num_clips, round(16_000 * duration_sec), device=device)
        error = (fbank(waveforms) - loop(waveforms)).abs().max().item()
        times = [(seconds(loop, waveforms), seconds(fbank, waveforms)) for _ in range(ROUNDS)]
        peer, ours = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
        print(
            f"fbank {device} {num_clips} x {duration_sec:g} s: loop {peer:.1f} ms, "
            f"batched {ours:.1f} ms, ratio {peer / ours:.1f}, largest difference {error:.1e}"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    report("cpu")
    if torch.cuda.is_available():
        report("cuda")
