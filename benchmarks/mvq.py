"""Encoding with a multi-codebook quantizer against the search as published.

The peer follows the published search: the change that each surviving alternative makes to the
reconstruction is held as a vector of the feature dimension, all alternatives are sorted, and all
frames of a call are handled at once. Both start from the same classifier's codes.

    python benchmarks/mvq.py                    # dim 1024, 16 codebooks of 256, 2000 frames
    python benchmarks/mvq.py --frames 256       # smaller calls suit the peer better
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from ssl_audio.tokenizers import MultiCodebookQuantizer, QuantizerTrainer


def published_refine(x: Tensor, codes: Tensor, centers: Tensor) -> Tensor:
    """One iteration of the search of Guo et al. (arXiv 2211.00508) with explicit vectors.

    Args:
        x: (B, D).
        codes: (B, N) int64.
        centers: (N, K, D), scaled.
    """
    num_codebooks, codebook_size, _ = centers.shape
    books = torch.arange(num_codebooks)
    current = centers[books, codes]  # (B, N, D)
    error = current.sum(1) - x
    error_energy = error.square().sum(-1)[:, None, None]
    rest = error[:, None] - current
    sums = rest.square().sum(-1)[..., None] + centers.square().sum(-1)
    sums = sums + 2 * torch.einsum("bnd,nkd->bnk", rest, centers)
    indices = torch.arange(codebook_size).expand(len(x), num_codebooks, -1)[..., None]
    vectors = None  # of all K codes they would not fit into memory

    while sums.shape[1:] != (1, 1):
        choices, alternatives = sums.shape[1:]
        group = indices.shape[-1]
        level = (group.bit_length() - 1) // 2
        cutoff = min(128, (8 if codebook_size <= 16 else 16) * 2**level)
        if choices == 1 or alternatives > cutoff:
            sums, order = sums.sort(-1)
            keep = 1 if choices == 1 else cutoff
            sums, order = sums[..., :keep], order[..., :keep, None]
            indices = indices.gather(2, order.expand(-1, -1, -1, group))
            if vectors is not None:
                vectors = _summed_vectors(vectors, order[..., 0])
        else:
            if vectors is None:
                picked = centers[books[:, None], indices[..., 0]]
                vectors = picked - current[:, :, None]
            elif isinstance(vectors, tuple):
                every = torch.arange(alternatives).expand_as(sums)
                vectors = _summed_vectors(vectors, every)
            even, odd = vectors[:, 0::2], vectors[:, 1::2]
            cross = even @ odd.transpose(-1, -2)
            sums = sums[:, 0::2, :, None] + sums[:, 1::2, None, :] - error_energy[..., None]
            sums = (sums + 2 * cross).flatten(2)
            left = indices[:, 0::2].repeat_interleave(alternatives, 2)
            right = indices[:, 1::2].repeat(1, 1, alternatives, 1)
            indices = torch.cat([left, right], -1)
            vectors = (even, odd)
    return indices[:, 0, 0]


def _summed_vectors(vectors: Tensor | tuple[Tensor, Tensor], order: Tensor) -> Tensor:
    """Vectors (B, M, q, D) of the alternatives ``order``; those of a merge are sums of two."""
    if isinstance(vectors, Tensor):
        index = order[..., None].expand(-1, -1, -1, vectors.shape[-1])
        return vectors.gather(2, index)
    even, odd = vectors
    width = odd.shape[2]
    return _summed_vectors(even, order // width) + _summed_vectors(odd, order % width)


@torch.no_grad()
def published_encode(quantizer: MultiCodebookQuantizer, x: Tensor, refine_iters: int) -> Tensor:
    """Codes (B, N) of x (B, D) with :func:`published_refine`."""
    codes = quantizer.logits(x).argmax(-1)
    centers = quantizer.scaled_centers()
    for _ in range(refine_iters):
        codes = published_refine(x, codes, centers)
    return codes


def feature_like(num_frames: int, dim: int, seed: int) -> Tensor:
    """Frames with the clustered, low-rank look of a network's features."""
    world = torch.Generator().manual_seed(0)  # the same clusters and directions for every seed
    rank = min(dim, 96)
    clusters = torch.randn(500, rank, generator=world)
    directions = torch.randn(rank, dim, generator=world) / rank**0.5
    draw = torch.Generator().manual_seed(seed)
    latent = clusters[torch.randint(500, (num_frames,), generator=draw)]
    latent = latent + 0.5 * torch.randn(num_frames, rank, generator=draw)
    return torch.tanh(latent) @ directions + 0.1 * torch.randn(num_frames, dim, generator=draw)


def trained_quantizer(args: argparse.Namespace) -> MultiCodebookQuantizer:
    """Equality of codes means little on random centers: the search is chaotic there."""
    trainer = QuantizerTrainer(args.dim, args.num_codebooks, args.train_iters, args.train_iters)
    while not trainer.done:
        losses = trainer.step(feature_like(args.train_batch, args.dim, 1 + trainer.steps_done))
    print(f"trained for {trainer.num_steps} steps: error {losses.rel_reconstruction:.3f}")
    return trainer.quantizer


def timed(encode: Callable[[], Tensor], repeats: int) -> tuple[Tensor, float, float]:
    """Codes, best CPU seconds, and the process's peak memory in MB so far."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        codes = encode()
        seconds.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return codes, min(seconds), peak / 1024


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--num-codebooks", type=int, default=16)
    parser.add_argument("--frames", type=int, default=2000, help="frames per call")
    parser.add_argument("--refine-iters", type=int, default=5)
    parser.add_argument("--train-iters", type=int, default=40, help="steps of each phase")
    parser.add_argument("--train-batch", type=int, default=512, help="frames per training step")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Prints a table; the ratios by backend."""
    args = parse(argv)
    torch.set_num_threads(1)
    quantizer = trained_quantizer(args)
    x = feature_like(args.frames, args.dim, seed=0)
    backends = ["torch", "numba"] if find_spec("numba") else ["torch"]
    results = {}
    for backend in backends:
        quantizer.backend = backend
        quantizer.encode(x[:8], args.refine_iters)  # compiles; builds the tables once
        results[backend] = timed(lambda: quantizer.encode(x, args.refine_iters), repeats=3)
    peer_codes, peer_sec, peer_mb = timed(
        lambda: published_encode(quantizer, x, args.refine_iters), repeats=1
    )
    print(f"published: {1e3 * peer_sec / args.frames:.2f} ms per frame, peak {peer_mb:.0f} MB")
    ratios = {}
    for backend, (codes, sec, megabytes) in results.items():
        equal = (codes == peer_codes).double().mean().item()
        ratios[backend] = peer_sec / sec
        print(
            f"{backend:>9}: {1e3 * sec / args.frames:.2f} ms per frame, peak {megabytes:.0f} MB, "
            f"{ratios[backend]:.1f}x, codes equal {100 * equal:.3f} %"
        )
    return ratios


if __name__ == "__main__":
    main()
