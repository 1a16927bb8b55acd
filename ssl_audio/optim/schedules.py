"""Learning rates as pure functions of the progress: nothing to save, nothing to resume."""

from __future__ import annotations


def eden_lr(
    base_lr: float,
    batch: float,
    epoch: float,
    lr_batches: float,
    lr_epochs: float,
    warmup_batches: float = 500.0,
    warmup_start: float = 0.5,
) -> float:
    """Eden (icefall ``optim.py``; Zipformer, arXiv 2310.11230, section 3.4).

    Falls with the power -1/4 of ``(batch / lr_batches)**2 + 1`` and of the same for epochs.

    Args:
        base_lr: the highest rate.
        batch: optimizer steps done.
        epoch: epochs done; SPEAR counts hours of audio seen instead, then ``lr_epochs`` is hours.
        lr_batches: steps after which the first factor starts to fall, > 0.
        lr_epochs: the same in units of ``epoch``, > 0.
        warmup_batches: steps of linear warm-up; 0 for none.
        warmup_start: factor at step 0, in [0, 1].

    Raises:
        ValueError: a constant is out of range.
    """
    if lr_batches <= 0 or lr_epochs <= 0 or warmup_batches < 0 or not 0 <= warmup_start <= 1:
        raise ValueError(
            f"Eden needs lr_batches > 0, lr_epochs > 0, warmup_batches >= 0 and warmup_start in "
            f"[0, 1]; got {lr_batches}, {lr_epochs}, {warmup_batches} and {warmup_start}"
        )
    warmup = 1.0
    if batch < warmup_batches:
        warmup = warmup_start + (1.0 - warmup_start) * batch / warmup_batches
    return base_lr * _decay(batch / lr_batches) * _decay(epoch / lr_epochs) * warmup


def _decay(progress: float) -> float:
    return float((progress**2 + 1.0) ** -0.25)
