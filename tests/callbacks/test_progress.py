from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.demos.boring_classes import BoringModel

from ssl_audio.callbacks.progress import bar_of


class Works(Callback):
    """Takes a while before the first step and after each."""

    def __init__(self) -> None:
        self.seen: list[list[tuple[str, float]]] = []

    def on_train_start(self, trainer, pl_module):
        self.work(trainer)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.work(trainer)

    def work(self, trainer):
        with bar_of(trainer, "Probing") as advance:
            advance(0.5)
            self.seen.append(self.tasks(trainer))
        assert not self.tasks(trainer)

    def tasks(self, trainer):
        bar = trainer.progress_bar_callback
        tasks = bar.progress.tasks if bar is not None and bar.progress is not None else []
        return [(x.description, x.completed) for x in tasks if x.description == "Probing"]


@pytest.mark.parametrize("shown", [True, False])
def test_it_stands_beside_the_training_and_goes_when_the_work_is_done(tmp_path, shown):
    torch.manual_seed(0)
    works = Works()
    bars = [RichProgressBar()] if shown else []
    trainer = Trainer(
        default_root_dir=tmp_path,
        max_steps=2,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=shown,
        callbacks=[works, *bars],
    )
    trainer.fit(BoringModel())
    assert len(works.seen) == 3
    assert works.seen[-1] == ([("Probing", 50)] if shown else [])
