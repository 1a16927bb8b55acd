"""HuBERT features of many clips: bucketed batches against transformers one clip at a time.

    python benchmarks/hubert.py                      # Base shape, random weights, CPU, 1 thread
    python benchmarks/hubert.py --device cuda        # bf16 and float32

Clips of 1 to 10 s, uniform. Both sides see the same normalised waveforms and the same weights; the
valid frames of every batch are compared with those of the clip alone. "One batch" pads every clip
to the longest one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from ssl_audio.memory import keep_freed_memory
from ssl_audio.models import HubertEncoder
from ssl_audio.models.padding import normalized

SAMPLE_RATE_HZ = 16_000
Run = Callable[[], list[Tensor]]


def clips(count: int, longest_sec: float) -> list[Tensor]:
    """Noise with a slow envelope, normalised, in random order of the lengths."""
    found = []
    for length in (SAMPLE_RATE_HZ * (1 + (longest_sec - 1) * torch.rand(count))).long().tolist():
        wave = torch.randn(length) * (1 + torch.sin(torch.arange(length) / 900))
        found.append(normalized(wave[None], torch.tensor([length]), 1e-7)[0])
    return found


def buckets(lengths: list[int], batch_sec: float) -> list[list[int]]:
    """Clips by length, in batches of at most ``batch_sec`` with padding."""
    batches: list[list[int]] = [[]]
    for clip in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches[-1] and (len(batches[-1]) + 1) * lengths[clip] > batch_sec * SAMPLE_RATE_HZ:
            batches.append([])
        batches[-1].append(clip)
    return batches


def batched(encoder: HubertEncoder, waves: list[Tensor], batches: list[list[int]]) -> list[Tensor]:
    """Valid frames of every clip."""
    device = next(encoder.parameters()).device
    frames: list[Tensor] = [torch.empty(0)] * len(waves)
    for batch in batches:
        padded = nn.utils.rnn.pad_sequence([waves[i] for i in batch], batch_first=True)
        lengths = torch.tensor([len(waves[i]) for i in batch])
        out = encoder.forward_features(padded.to(device), lengths.to(device))
        for i, row, count in zip(batch, out.frames, out.lengths.tolist(), strict=True):
            frames[i] = row[:count]
    return frames


def one_by_one(model: nn.Module, waves: list[Tensor]) -> list[Tensor]:
    device = next(model.parameters()).device
    return [model(wave[None].to(device)).last_hidden_state[0] for wave in waves]


def seconds(run: Run, device: str) -> float:
    start = time.perf_counter() if device == "cuda" else time.process_time()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() if device == "cuda" else time.process_time()) - start


def report(arguments: argparse.Namespace, precision: str) -> None:
    device = arguments.device
    config = transformers.HubertConfig(num_hidden_layers=arguments.layers)
    model = transformers.HubertModel(config).eval().to(device)
    encoder = HubertEncoder.from_state_dict(model.state_dict(), config.to_dict()).eval().to(device)
    waves = clips(arguments.clips, arguments.longest_sec)
    audio_sec = sum(map(len, waves)) / SAMPLE_RATE_HZ
    grouped = buckets(list(map(len, waves)), arguments.batch_sec)

    def ours(batches: list[list[int]]) -> list[Tensor]:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            return batched(encoder, waves, batches)

    runs: dict[str, Run] = {
        "transformers, float32, one clip at a time": lambda: one_by_one(model, waves),
        f"ours, {precision}, one padded batch": lambda: ours([list(range(len(waves)))]),
        f"ours, {precision}, bucketed": lambda: ours(grouped),
    }
    with torch.inference_mode():
        expected, actual = one_by_one(model, waves), ours(grouped)
        times = [[seconds(run, device) for run in runs.values()] for _ in range(arguments.rounds)]
    pairs = list(zip(expected, actual, strict=True))
    cosine = min(cosine_similarity(x, y.float(), dim=-1).min() for x, y in pairs)
    difference = max((x - y).abs().max() for x, y in pairs)
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    for name, median in zip(runs, medians, strict=True):
        print(
            f"{device} {name}: {median:.2f} s for {audio_sec:.0f} s of audio, "
            f"bucketed is {median / medians[-1]:.2f} times as fast"
        )
    print(f"largest difference to transformers {difference:.1e}, least cosine {cosine:.5f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--longest-sec", type=float, default=10.0)
    parser.add_argument("--batch-sec", type=float, help="with padding; 8 on a CPU, 120 on a GPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", nargs="*", default=["float32", "bf16"])
    arguments = parser.parse_args()
    if arguments.batch_sec is None:  # larger batches do not fit the caches of a CPU
        arguments.batch_sec = 8.0 if arguments.device == "cpu" else 120.0
    torch.set_num_threads(1)
    keep_freed_memory()  # for both sides
    for precision in arguments.precision:
        torch.manual_seed(0)
        report(arguments, precision)


if __name__ == "__main__":
    main()
