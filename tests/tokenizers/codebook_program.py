"""Steps of an ``EMACodebook`` on unequal batches, for ``test_ema_codebook``.

As a program, one rank of two: ``RANK=R WORLD_SIZE=2 python codebook_program.py OUTPUT_FOLDER``.
"""

import os
import sys
from pathlib import Path

import torch

from ssl_audio.tokenizers.ema_codebook import EMACodebook

STEPS, MICRO_BATCHES = 5, 2
NUM_CODES, DIM = 12, 6


def micro_batch(step, micro, rank):
    """Vectors of 20 clusters and which are valid; ranks have different numbers of them."""
    generator = torch.Generator().manual_seed(100 * step + 10 * micro + rank)
    clusters = torch.randn(20, DIM, generator=torch.Generator().manual_seed(1))
    shape = (2, 30 + 10 * rank)
    noise = 0.3 * torch.randn(*shape, DIM, generator=generator)
    x = clusters[torch.randint(20, shape, generator=generator)] + noise
    lengths = torch.randint(15, shape[1] + 1, (2,), generator=generator)
    return x, torch.arange(shape[1]) < lengths[:, None]


def train(ranks, revive_below=0.0):
    """A codebook after all steps on what ``ranks`` see."""
    torch.manual_seed(sum(ranks))  # ranks need not agree on the global generator
    codebook = EMACodebook(NUM_CODES, DIM, decay=0.7, revive_below=revive_below, seed=3)
    for step in range(STEPS):
        for micro in range(MICRO_BATCHES):
            batches = [micro_batch(step, micro, rank) for rank in ranks]
            x = torch.cat([x[valid] for x, valid in batches])[None]
            codebook(x)
        codebook.step(step)
    return codebook


def main(output, rank):
    torch.distributed.init_process_group("gloo")
    found = {revive: train([rank], revive).state_dict() for revive in (0.0, 0.5)}
    torch.save(found, output / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(os.environ["RANK"]))
