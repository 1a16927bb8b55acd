"""One rank of two: an uninterrupted fit, then the same from its checkpoint in the middle.

Run as ``LOCAL_RANK=R python ddp_program.py AUDIO_FOLDER OUTPUT_FOLDER``; see ``test_ddp_resume``.
"""

import json
import sys
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from ssl_audio.data.datamodule import DataModule
from ssl_audio.data.folder_source import FolderSource

STEPS, CUT, ACCUMULATE = 6, 3, 2


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.seen, self.validated = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch.sample_index.tolist())
        return (self.weight * batch.waveforms.square().mean()).sum()

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch.sample_index.tolist())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


def make_data(audio, num_workers):
    return DataModule(
        FolderSource(audio),
        batch_sec=1.0,
        min_sec=0.05,
        num_buckets=3,
        seed=4,
        valid_fraction=0.3,
        num_workers=num_workers,
    )


def fit(audio, folder, *, num_ranks=1, num_workers=0, resume=None):
    """The model, and the data module's count at the end."""
    model, data = Model(), make_data(audio, num_workers)
    trainer = Trainer(
        accelerator="cpu",
        strategy="ddp" if num_ranks > 1 else "auto",
        devices=num_ranks,
        max_steps=STEPS,
        accumulate_grad_batches=ACCUMULATE,
        use_distributed_sampler=False,
        val_check_interval=2 * ACCUMULATE,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, "{step}", every_n_train_steps=CUT, save_top_k=-1)],
    )
    trainer.fit(model, data, ckpt_path=resume, weights_only=True if resume else None)
    return {
        "seen": model.seen,
        "validated": model.validated,
        "weight": model.weight.item().hex(),
        "trained": data.batches_trained,
        "rank": trainer.global_rank,
    }


def main(audio, output):
    whole = fit(audio, output / "whole", num_ranks=2, num_workers=1)
    checkpoint = output / "whole" / f"step={CUT}.ckpt"
    resumed = fit(audio, output / "resumed", num_ranks=2, num_workers=1, resume=checkpoint)
    text = json.dumps({"whole": whole, "resumed": resumed})
    (output / f"rank{whole['rank']}.json").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
