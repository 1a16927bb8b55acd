"""SD-HuBERT's objective: sentence logits of a student against centred ones of its teacher.

arXiv 2310.10803, after DINO (arXiv 2104.14294). Axes: B clips, K classes that nobody has labelled.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn


def sentence_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    center: Tensor,
    *,
    student_temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """Cross-entropy in nats (B,), float32; no gradient reaches the teacher.

    Args:
        student_logits, teacher_logits: (B, K).
        center: (K,) taken off the teacher's logits, so that no class wins for every clip.
    """
    teacher = (teacher_logits.detach().float() - center) / teacher_temperature
    student = (student_logits.float() / student_temperature).log_softmax(-1)
    return -(teacher.softmax(-1) * student).sum(-1)


class LogitCenter(nn.Module):
    """Running mean of the teacher's logits over all ranks; the first batch sets it.

    Args:
        num_classes: K.
        momentum: share of the old centre in an update, 0 to 1.
    """

    center: Tensor
    started: Tensor

    def __init__(self, num_classes: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(num_classes))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def update(self, teacher_logits: Tensor) -> Tensor:
        """Move towards the logits (B, K) of this batch; the new centre (K,)."""
        sums = torch.cat(
            [teacher_logits.float().sum(0), teacher_logits.new_tensor([len(teacher_logits)])]
        )
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(sums)
        mean = sums[:-1] / sums[-1].clamp_min(1)
        momentum = torch.where(self.started, self.momentum, 0.0)
        self.center.lerp_(mean, 1 - momentum)
        self.started.fill_(True)
        return self.center
