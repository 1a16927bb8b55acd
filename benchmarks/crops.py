"""Random 10 s crops of a 10-minute FLAC with their filterbank, against torchaudio.

    python benchmarks/crops.py

The peer is ``torchaudio.load(frame_offset=..., num_frames=...)`` and a loop over
``torchaudio.compliance.kaldi.fbank``. Since torchaudio 2.9 its ``load`` needs the package
torchcodec and FFmpeg; without them the peer does with soundfile what ``load`` does: decode all,
then slice. One thread, batches interleaved, median of process CPU time. Target: 25 times the peer.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor
from torchaudio.compliance import kaldi

from ssl_audio import audio
from ssl_audio.frontends import KaldiFbank

FILE_SEC, CROP_SEC, RATE = 600, 10, 16_000
CROPS, ROUNDS = 8, 5


def make_file(path: Path) -> None:
    """Ten minutes that a codec compresses about as well as speech: noise whose level moves."""
    rng = np.random.default_rng(0)
    level = np.repeat(rng.uniform(0.0, 0.2, FILE_SEC * 4), RATE // 4)
    samples = np.convolve(rng.standard_normal(FILE_SEC * RATE) * level, np.ones(4) / 2, "same")
    audio.write(path, samples.astype(np.float32), RATE)


def load_torchaudio(path: Path, start: int) -> Tensor:
    return torchaudio.load(path, frame_offset=start, num_frames=CROP_SEC * RATE)[0][0]


def load_all_and_slice(path: Path, start: int) -> Tensor:
    samples, _ = soundfile.read(path, dtype="float32")
    return torch.from_numpy(samples[start : start + CROP_SEC * RATE])


def choose_peer(path: Path) -> Callable[[Path, int], Tensor]:
    try:
        load_torchaudio(path, 0)
    except (ImportError, RuntimeError, OSError) as error:
        print(f"torchaudio.load does not work here ({type(error).__name__}): soundfile instead")
        return load_all_and_slice
    return load_torchaudio


def peer_batch(load: Callable[[Path, int], Tensor], path: Path, starts: list[int]) -> Tensor:
    features = [
        kaldi.fbank(
            load(path, start)[None],
            num_mel_bins=128,
            dither=0.0,
            snip_edges=False,
            high_freq=-400.0,
        )
        for start in starts
    ]
    return torch.stack(features)


def our_batch(fbank: KaldiFbank, path: Path, starts: list[int]) -> Tensor:
    crops = [audio.read(path, start / RATE, CROP_SEC) for start in starts]
    return fbank(torch.from_numpy(np.stack(crops)))


def cpu_seconds(call: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.process_time()
    features = call()
    return time.process_time() - start, features


def main() -> None:
    torch.set_num_threads(1)
    rng, fbank = np.random.default_rng(1), KaldiFbank()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.flac"
        make_file(path)
        load = choose_peer(path)
        our_batch(fbank, path, [0])
        peer_times, our_times, error = [], [], 0.0
        for _ in range(ROUNDS):
            starts = rng.integers(0, (FILE_SEC - CROP_SEC) * RATE, CROPS).tolist()
            peer_sec, expected = cpu_seconds(lambda starts=starts: peer_batch(load, path, starts))
            our_sec, features = cpu_seconds(lambda starts=starts: our_batch(fbank, path, starts))
            peer_times.append(1e3 * peer_sec / CROPS)
            our_times.append(1e3 * our_sec / CROPS)
            error = max(error, (features - expected).abs().max().item())
    peer, ours = statistics.median(peer_times), statistics.median(our_times)
    print(
        f"random {CROP_SEC} s crop of {FILE_SEC // 60} min FLAC + fbank: {load.__name__} "
        f"{peer:.1f} ms, ours {ours:.2f} ms, ratio {peer / ours:.0f}, "
        f"largest difference {error:.1e}"
    )


if __name__ == "__main__":
    main()
