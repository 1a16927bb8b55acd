"""Tiny HuBERTs, the tasks that train them, and a fit of each on two ranks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn.utils.rnn import pad_sequence

from ssl_audio.batch import IGNORE_CODE, SPEECH, Tokens
from ssl_audio.models import HubertEncoder
from ssl_audio.models.sdhubert import SdHubertEncoder
from ssl_audio.stages.common import seeded
from ssl_audio.tasks.hubert import HubertTask
from ssl_audio.tasks.sdhubert import SdHubertTask
from ssl_audio.tasks.spear import TokenSpec
from ssl_audio.tasks.sylber import SylberTask

STEPS = 2
STILL = dict.fromkeys(
    ("hidden_dropout", "attention_dropout", "activation_dropout", "layerdrop"), 0.0
)
UNITS = {"speech": TokenSpec(1, 16, 50.0)}
SEGMENTS = {"segments": TokenSpec(1, 3, 50.0)}
STATISTICS = {"signal_mean": 4.0, "signal_var": 0.01, "noise_mean": 3.9, "noise_var": 0.01}
HUBERT = {
    "time_mask": {"prob": 0.5, "span": 4, "min_masks": 1},
    "projection_dim": 8,
    "temperature": 0.1,
    "unmasked_weight": 0.0,
    "feature_penalty": 10.0,
    "conv_gradient": 0.1,
    "optimizer": {"lr": 1e-2, "clip_norm": 10.0},
    "schedule": {"warmup_steps": 0},
    "seed": 3,
    "max_steps": 30,
}
SDHUBERT = {
    "fresh_layers": 1,
    "head": {"inner_dim": 12, "num_classes": 10},
    "ema_decay": 0.5,
    "student_temperature": 0.2,
    "teacher_temperature": 0.05,
    "center_momentum": 0.9,
    "perturbation": {
        "masks": [(0.4, 0.2, 10), (0.4, 0.3, 5)],
        "stretch_prob": 0.2,
        "stretch_split": (0.2, 0.8),
        "stretch_scale": (0.8, 1.5),
    },
    "optimizer": {"lr": 1e-3, "clip_norm": 0.5},
    "schedule": {"warmup_steps": 0, "end_lr": 1e-4, "shape": "cosine"},
    "seed": 3,
    "max_steps": 4,
}
SYLBER = {
    "ema_decay": 1.0,
    "noise_mixing": {
        "augment_prob": 0.5,
        "utterance_prob": 0.5,
        "shift_range": (0.0, 0.7),
        "gain_range": (0.05, 0.7),
        "max_utterance_gain": 0.2,
    },
    "merge_threshold": (0.6, 0.9),
    "count_padding": False,
    "alarm_cosine": 0.999999,
    "optimizer": {"lr": 1e-3, "clip_norm": 0.5},
    "schedule": {"warmup_steps": 0, "min_factor": 1.0},
    "seed": 3,
    "max_steps": 4,
}


def tiny_hubert(cls=HubertEncoder, **changes):
    """A HuBERT of the class with two layers of 16 channels."""
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "conv_dim": [8] * 7,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 4,
    }
    with seeded(7):
        return cls(**sizes | changes)


def hubert_task(tokens=UNITS, tokenizers=None, encoder=None, **changes):
    with seeded(5):
        return HubertTask(encoder or tiny_hubert(), tokens, tokenizers, **HUBERT | changes)


def sdhubert_task(encoder=None, **changes):
    with seeded(5):
        return SdHubertTask(encoder or tiny_hubert(SdHubertEncoder), **SDHUBERT | changes)


def sylber_task(stage=2, encoder=None, **changes):
    """Stage 1 learns from the codes "segments", stage 2 from segments of its own."""
    norms = None if stage == 1 else {**STATISTICS, "decay": 0.9}
    settings = {**SYLBER, "norm_threshold": norms, **changes}
    with seeded(5):
        return SylberTask(encoder or tiny_hubert(), SEGMENTS if stage == 1 else None, **settings)


def one_codebook(batch):
    tokens = batch.codes["speech"]
    return replace(batch, codes={"speech": replace(tokens, codes=tokens.codes[..., :1])})


def only(batch, domain):
    return replace(batch, domains=torch.full_like(batch.domains, domain))


def joined(first, second):
    """One batch of the clips of two."""

    def padded(rows, value=0):
        return pad_sequence([*rows[0], *rows[1]], batch_first=True, padding_value=value)

    codes = {
        name: Tokens(
            padded((first.codes[name].codes, second.codes[name].codes), IGNORE_CODE),
            torch.cat([first.codes[name].lengths, second.codes[name].lengths]),
        )
        for name in first.codes
    }
    return replace(
        first,
        waveforms=padded((first.waveforms, second.waveforms)),
        lengths=torch.cat([first.lengths, second.lengths]),
        domains=torch.cat([first.domains, second.domains]),
        sample_index=torch.cat([first.sample_index, second.sample_index]),
        ids=first.ids + second.ids,
        codes=codes,
    )


def parallel_tasks():
    """Name to a task without anything that depends on how clips are put into micro-batches."""
    rates = {"lr": 1e-3, "eps": 1e-3, "clip_norm": None}  # eps: noise in a gradient moves nothing
    plain = tiny_hubert(**STILL)
    clean = {**SYLBER["noise_mixing"], "augment_prob": 0.0}
    return {
        "hubert": hubert_task(encoder=plain, feature_penalty=0.0, optimizer=rates),
        "sdhubert": sdhubert_task(tiny_hubert(SdHubertEncoder, **STILL), optimizer=rates),
        "sylber": sylber_task(
            encoder=tiny_hubert(**STILL),
            merge_threshold=(0.7, 0.7),
            noise_mixing=clean,
            optimizer=rates,
        ),
    }


def parallel_batches(make_batches):
    """Two ranks' micro-batches of ``STEPS`` steps, speech only."""
    return [only(one_codebook(batch), SPEECH) for batch in make_batches(2 * STEPS)]


def fit_parallel(program, **options):
    """Name to losses and last parameters of each task, on this rank."""
    found = {}
    batches = parallel_batches(program["make_batches"])
    if not options:
        batches = [joined(*pair) for pair in zip(batches[::2], batches[1::2], strict=True)]
    for name, task in parallel_tasks().items():
        seen = program["fit"](task, batches, steps=STEPS, **options)
        found[name] = {"losses": seen.losses, "parameters": seen.parameters[-1]}
        found[name]["state"] = {
            key: x for key, x in task.state_dict().items() if "center" in key or "norm_thr" in key
        }
    return found
