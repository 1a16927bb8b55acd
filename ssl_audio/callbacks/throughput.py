"""How fast the run goes and what it waits for."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ssl_audio.batch import SAMPLE_RATE_HZ, AudioBatch


class Throughput(Callback):
    """Logs, over the steps since the last log of this rank:

    ``speed/audio_sec_per_sec`` (valid audio), ``speed/data_wait`` (share of the time spent waiting
    for a batch) and ``speed/padding`` (share of the samples that are padding).
    """

    def __init__(self) -> None:
        self._reset(time.monotonic())
        self._waiting_since: float | None = None

    def _reset(self, now: float) -> None:
        self._since, self._waited = now, 0.0
        self._valid_samples, self._padded_samples = 0, 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._waiting_since is not None:
            self._waited += time.monotonic() - self._waiting_since

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        self._waiting_since = now
        assert isinstance(batch, AudioBatch)
        lengths = batch.lengths_on_cpu
        self._valid_samples += int(lengths.sum())
        self._padded_samples += batch.waveforms.numel()
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            elapsed = now - self._since
            values = {
                "speed/audio_sec_per_sec": self._valid_samples / SAMPLE_RATE_HZ / elapsed,
                "speed/data_wait": self._waited / elapsed,
                "speed/padding": 1 - self._valid_samples / self._padded_samples,
            }
            pl_module.log_dict(values)
            self._reset(now)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused_at = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Validation and probes are neither training nor waiting for data.
        paused = time.monotonic() - self._paused_at
        self._since += paused
        if self._waiting_since is not None:
            self._waiting_since += paused
