"""Fits of a tiny ``SpearTask``, for ``test_spear``; as a program, one rank of two.

Run as ``LOCAL_RANK=R python spear_program.py OUTPUT_FOLDER``.
"""

import logging
import sys
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from ssl_audio.batch import AUDIO, IGNORE_CODE, SPEECH, AudioBatch, Tokens
from ssl_audio.data.dataset import already_collated
from ssl_audio.models import Zipformer
from ssl_audio.stages.common import seeded
from ssl_audio.tasks.spear import SpearTask, TokenSpec

STEPS = 4
POISONED_STEP = 2
TOKENS = {"speech": TokenSpec(2, 16, 50.0), "audio": TokenSpec(2, 16, 25.0)}


class Recorder(Callback):
    """The loss of every micro-batch, and the parameters after each, or after the last alone."""

    def __init__(self, every_step=True):
        self.every_step = every_step
        self.losses, self.parameters = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        loss = outputs["loss"].item()
        self.losses.append(loss)
        if not self.every_step:
            self.parameters.clear()
        self.parameters.append([p.detach().clone() for p in pl_module.parameters()])


def make_task(*, regularize=False, batch_sec=1.0, tokens=TOKENS, tokenizers=None, **arguments):
    settings = {
        "strategy": "asymmetric",
        "audio_weight": 0.1,
        "masked_weight": 0.5,
        "time_mask": {"prob": 0.5, "span": 5, "min_masks": 1},
        "channel_mask": {"prob": 0.25, "span": 3},
        "token_mixing": None,
        "utterance_mixing": None,
        "optimizer": {"lr": 0.1, "eps": 1e-3},  # eps: gradients that are noise move nothing
        "schedule": {"lr_batches": 100, "lr_hours": 1, "warmup_batches": 2},
        "schedule_batch_sec": 600.0,
        "average": None,
        "max_steps": STEPS,
    }
    with seeded(5):
        encoder = Zipformer(
            num_mel_bins=16,
            embed_channels=(4, 4, 8),
            downsampling_factor=(1, 2),
            num_encoder_layers=1,
            encoder_dim=32,
            encoder_unmasked_dim=16,
            feedforward_dim=48,
            num_heads=2,
            cnn_module_kernel=7,
            regularize=regularize,
        )
        return SpearTask(
            encoder, tokens, tokenizers, seed=3, batch_sec=batch_sec, **settings | arguments
        )


def make_batches(count, seed=0):
    """Micro-batches of unequal numbers of clips, lengths and domains, with stored codes."""
    generator = torch.Generator().manual_seed(seed)
    batches, position = [], 0
    for number in range(count):
        size = 2 + number % 3
        lengths = torch.randint(4000, 9000, (size,), generator=generator)
        noise = torch.randn(size, int(lengths.max()), generator=generator) * 0.1
        valid = torch.arange(noise.shape[1]) < lengths[:, None]
        domains = torch.tensor([(SPEECH, AUDIO)[(position + i) % 3 == 0] for i in range(size)])
        batches.append(
            AudioBatch(
                waveforms=noise * valid,
                lengths=lengths,
                domains=domains,
                sample_index=torch.arange(position, position + size),
                ids=tuple(f"clip{i}" for i in range(position, position + size)),
                codes={name: make_codes(spec, lengths, generator) for name, spec in TOKENS.items()},
            )
        )
        position += size
    return batches


def make_codes(spec, lengths, generator):
    num_frames = (lengths / 16_000 * spec.frame_rate).long()
    shape = (len(lengths), int(num_frames.max()), spec.num_codebooks)
    codes = torch.randint(0, spec.codebook_size, shape, generator=generator)
    valid = torch.arange(shape[1]) < num_frames[:, None]
    return Tokens(codes.masked_fill(~valid[..., None], IGNORE_CODE), num_frames)


def fit(
    task,
    batches,
    *,
    num_ranks=1,
    accumulate=1,
    steps=STEPS,
    callbacks=(),
    every_step=True,
    **options,
):
    """Rank r of n trains micro-batches r, r + n ...; what ``Recorder`` saw."""
    recorder = Recorder(every_step)
    trainer = Trainer(
        accelerator="cpu",
        strategy="ddp" if num_ranks > 1 else "auto",
        devices=num_ranks,
        max_steps=steps,
        accumulate_grad_batches=accumulate,
        use_distributed_sampler=False,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=[recorder, *callbacks],
        **options,
    )
    data = batches  # a data module, or micro-batches
    if isinstance(batches, list):
        mine = batches[trainer.global_rank :: num_ranks]
        data = DataLoader(mine, batch_size=None, collate_fn=already_collated)
    trainer.fit(task, data)
    return recorder


def poison(batch, clip):
    waveforms = batch.waveforms.clone()
    waveforms[clip, 100] = torch.nan
    return replace(batch, waveforms=waveforms)


class Messages(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []
        logging.getLogger("ssl_audio.tasks.step").addHandler(self)

    def emit(self, record):
        self.lines.append(record.getMessage())


def main(output):
    from hubert_parts import fit_parallel  # beside this program

    messages = Messages()
    found = {}
    plain = fit(make_task(), make_batches(2 * STEPS), num_ranks=2)
    found["plain"] = plain.parameters[-1]
    accumulated = fit(make_task(), make_batches(4 * STEPS), num_ranks=2, accumulate=2)
    found["accumulated"] = accumulated.parameters[-1]
    found["hubert"] = fit_parallel(globals(), num_ranks=2)

    batches = make_batches(2 * STEPS)
    bad = 2 * POISONED_STEP + 1
    batches[bad] = poison(batches[bad], clip=1)
    task = make_task()
    found["skipped"] = fit(task, batches, num_ranks=2).parameters
    found["messages"] = messages.lines.copy()

    batches = [poison(batch, 0) if i % 2 else batch for i, batch in enumerate(batches)]
    task = make_task()
    task.max_skipped_steps = 3
    try:
        fit(task, batches, num_ranks=2)
    except ValueError as error:
        found["abort"] = str(error)
    found["abort_step"] = task.trainer.global_step
    torch.save(found, output / f"rank{task.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
