"""Optimizers and learning-rate schedules."""

from ssl_audio.optim.scaled_adam import ScaledAdam
from ssl_audio.optim.schedules import eden_lr, warmup_decay_lr

__all__ = ["ScaledAdam", "eden_lr", "warmup_decay_lr"]
