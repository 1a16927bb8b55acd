"""Tiny BEATs encoders, tasks and batches for the tests of this folder."""

from __future__ import annotations

from dataclasses import replace

import torch

from ssl_audio.batch import AUDIO, AudioBatch
from ssl_audio.models import BeatsEncoder
from ssl_audio.stages.common import seeded
from ssl_audio.tasks.beats import BeatsTask
from ssl_audio.tasks.spear import TokenSpec
from ssl_audio.tokenizers import RandomProjectionTokenizer

STEPS = 3
NUM_CODES = 16
OPTIMIZER = {"lr": 1e-2, "betas": (0.9, 0.98), "eps": 1e-3, "weight_decay": 0.01, "clip_norm": 1.0}
COMMON = {
    "optimizer": OPTIMIZER,
    "schedule": {"warmup_steps": 0},
    "max_steps": 100,
    "seed": 3,
}


def make_encoder(**changes):
    config = {
        "embed_dim": 8,
        "encoder_layers": 2,
        "encoder_embed_dim": 16,
        "encoder_ffn_embed_dim": 24,
        "encoder_attention_heads": 2,
        "conv_pos": 4,
        "conv_pos_groups": 2,
        "num_buckets": 8,
        "max_distance": 16,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "dropout_input": 0.0,
        "encoder_layerdrop": 0.0,
    }
    with seeded(5):
        return BeatsEncoder(**config | changes)


def make_tokenizer():
    return RandomProjectionTokenizer(NUM_CODES, codebook_dim=4, embed_dim=8)


def make_task(*, encoder=None, tokenizers=None, **changes):
    settings = {
        "mask_ratio": 0.75,
        "placeholder": "zero",
        "positions": "compact",
        "label_smoothing": 0.0,
        "predictor_layers": 1,
        "predictor_dim": 8,
        **COMMON,
    }
    tokens = {"labels": TokenSpec(1, NUM_CODES, 50.0)}
    encoder = encoder or make_encoder()
    with seeded(6):
        return BeatsTask(encoder, tokens, tokenizers, **settings | changes)


def make_batches(count, seconds=(0.5, 1.0), with_codes=True):
    """Micro-batches of 2 or 3 clips of noise, with the codes of ``make_tokenizer``."""
    generator = torch.Generator().manual_seed(0)
    tokenizer = make_tokenizer()
    batches, position = [], 0
    shortest, longest = (round(16_000 * sec) for sec in seconds)
    for number in range(count):
        size = 2 + number % 2
        lengths = torch.randint(shortest, longest, (size,), generator=generator)
        noise = torch.randn(size, int(lengths.max()), generator=generator) * 0.1
        valid = torch.arange(noise.shape[1]) < lengths[:, None]
        batch = AudioBatch(
            waveforms=noise * valid,
            lengths=lengths,
            domains=torch.full((size,), AUDIO),
            sample_index=torch.arange(position, position + size),
            ids=tuple(f"clip{i}" for i in range(position, position + size)),
        )
        if with_codes:
            codes = {"labels": tokenizer.encode(batch.waveforms, lengths)}
            batch = replace(batch, codes=codes)
        batches.append(batch)
        position += size
    return batches
