"""Segmentation against the straightforward per-utterance algorithm, with equal segments.

The peer takes Sylber's algorithm as it is written: one frame after the other with vectors of the
feature dimension, and every candidate boundary scored by a sum over its window.

    python benchmarks/sylber.py                    # 500, 1500 and 5000 frames; 100 x 250 frames
    python benchmarks/sylber.py --device cuda      # the batch on a GPU, nothing copied to the host
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from ssl_audio.tokenizers.syllables import EPS, segment_syllables
from ssl_audio.tokenizers.syllables_batch import segment_batch

NORM_THRESHOLD, MERGE_THRESHOLD = 2.6, 0.8  # inference defaults of Berkeley-Speech-Group/sylber
FRAME_RATE_HZ = 50


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    return a @ b / (np.sqrt((a**2).sum() + EPS) * np.sqrt((b**2).sum() + EPS))


def straightforward_segments(
    x: np.ndarray, norm_threshold: float, merge_threshold: float
) -> np.ndarray:
    """(N, 2) segments of (T, D) by the letter of the specification."""
    speech = np.sqrt((x**2).sum(1) + EPS) >= norm_threshold
    segments: list[list[int]] = []
    boundaries: list[tuple[int, int]] = []
    start, run_start, template = -1, -1, x[:1].sum(0)
    for t in range(len(x) + 1):
        if t == len(x) or not speech[t]:
            if start >= 0:
                segments.append([start, t])
            start = -1
        elif start < 0:
            start = run_start = t
            template = x[t]
        elif similarity(template, x[t]) >= merge_threshold:
            seen = t - run_start
            template = (seen * template + x[t]) / (seen + 1)
        else:
            boundaries.append((t, len(segments)))
            segments.append([start, t])
            start, template = t, x[t]
    removed = set()
    for boundary, k in boundaries:
        left, right = segments[k], segments[k + 1]
        left_mean, right_mean = x[slice(*left)].mean(0), x[slice(*right)].mean(0)
        if similarity(left_mean, right_mean) >= merge_threshold:
            right[0] = left[0]
            removed.add(k)
            continue
        low = max(left[0], boundary - max(1, (left[1] - left[0]) // 2))
        high = min(right[1], boundary + max(1, (right[1] - right[0]) // 2))
        to_left = [similarity(frame, left_mean) for frame in x[low:high]]
        to_right = [similarity(frame, right_mean) for frame in x[low:high]]
        scores = [sum(to_left[:q]) + sum(to_right[q:]) for q in range(high - low)]
        left[1] = right[0] = low + int(np.argmax(scores))
    kept = [segment for k, segment in enumerate(segments) if k not in removed]
    return np.array(kept, np.int64).reshape(-1, 2)


def syllable_like(num_frames: int, dim: int, seed: int) -> np.ndarray:
    """(T, D) float32 syllables of about 12 frames with drift and noise, every fifth one silent."""
    draw = np.random.default_rng(seed)
    x = np.empty((num_frames, dim), np.float32)
    start = 0
    while start < num_frames:
        end = min(num_frames, start + int(draw.integers(6, 19)))
        norm = 0.3 if draw.random() < 0.2 else 6.0
        vector = draw.standard_normal(dim) * norm / np.sqrt(dim)
        noise = draw.standard_normal((end - start, dim)) * 0.35 * norm / np.sqrt(dim)
        x[start:end] = vector + noise
        start = end
    return x


def walk_like(num_frames: int, dim: int, seed: int) -> np.ndarray:
    """(T, D) float32 random walk of norm 6 without silence, about 4 segments a second."""
    draw = np.random.default_rng(seed)
    x = np.empty((num_frames, dim), np.float32)
    state = draw.standard_normal(dim)
    for t in range(num_frames):
        state = np.sqrt(0.965) * state + np.sqrt(0.035) * draw.standard_normal(dim)
        x[t] = 6 * state / np.linalg.norm(state)
    return x


def best_sec(run: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def single_utterances(dim: int, repeats: int) -> dict[str, float]:
    backends = ["numpy", "numba"] if find_spec("numba") else ["numpy"]
    ratios = {}
    for kind, make in (("syllables", syllable_like), ("walk", walk_like)):
        for num_frames in (500, 1500, 5000):
            x = make(num_frames, dim, seed=num_frames)
            expected, peer_sec = best_sec(
                lambda x=x: straightforward_segments(x, NORM_THRESHOLD, MERGE_THRESHOLD), 3
            )
            rate = len(expected) * FRAME_RATE_HZ / num_frames
            line = f"{kind:>9}, {num_frames:4} frames, {rate:.1f}/s: {1e3 * peer_sec:.1f} ms"
            for backend in backends:
                found, sec = best_sec(
                    lambda x=x, backend=backend: segment_syllables(
                        x, NORM_THRESHOLD, MERGE_THRESHOLD, backend=backend
                    ),
                    repeats,
                )
                assert np.array_equal(found, expected), (kind, num_frames, backend)
                ratios[f"{kind}_{num_frames}_{backend}"] = peer_sec / sec
                line += f"; {backend} {1e3 * sec:.2f} ms, {peer_sec / sec:.1f}x"
            print(line)
    return ratios


def training_batch(batch: int, dim: int, device: str, repeats: int) -> float:
    clips = [syllable_like(250, dim, seed) for seed in range(batch)]
    expected, peer_sec = best_sec(
        lambda: [straightforward_segments(x, NORM_THRESHOLD, MERGE_THRESHOLD) for x in clips], 1
    )
    features = torch.from_numpy(np.stack(clips)).to(device)
    found = segment_batch(features, None, NORM_THRESHOLD, MERGE_THRESHOLD)  # compiles
    if device != "cpu":
        torch.cuda.set_sync_debug_mode("error")  # a copy to the host would raise
    _, sec = best_sec(
        lambda: segment_batch(features, None, NORM_THRESHOLD, MERGE_THRESHOLD), repeats
    )
    if device != "cpu":
        torch.cuda.set_sync_debug_mode("default")
    for rows, segments in zip(expected, found.cpu().numpy(), strict=True):
        assert np.array_equal(segments[segments[:, 0] >= 0], rows)
    print(f"{batch} x 250 frames on {device}: {1e3 * peer_sec:.0f} ms one by one on the CPU; "
          f"batched {1e3 * sec:.2f} ms, {peer_sec / sec:.1f}x")  # fmt: skip
    return peer_sec / sec


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Prints a table; the ratios by case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    ratios = single_utterances(args.dim, args.repeats)
    ratios["batch"] = training_batch(args.batch, args.dim, args.device, args.repeats)
    return ratios


if __name__ == "__main__":
    main()
