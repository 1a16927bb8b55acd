"""Teachers that follow their student."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor, nn


class EMA(nn.Module):
    """A frozen copy of a module that moves towards it, always in eval mode.

    It belongs into the task's module tree, so that every checkpoint has it: a teacher that is made
    again from the student after a resume is another teacher. Without gradients it is no part of a
    data-parallel reduction.

    Args:
        module: copied as it is now.
        decay: share of the old weights in an update, 0 to 1; 1 freezes the teacher.

    Raises:
        ValueError: ``decay`` outside 0 .. 1.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"the teacher's decay is {decay}, choose one in 0 .. 1")
        self.decay = decay
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.trained = {name for name, p in module.named_parameters() if p.requires_grad}
        self.eval()

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """One move towards ``student``, once per optimizer step.

        Weights that are not trained, and buffers, are copied (Sylber's and SD-HuBERT's rule).
        """
        if self.decay == 1.0:
            return
        ours, theirs = dict(self.module.named_parameters()), dict(student.named_parameters())
        moved: tuple[list[Tensor], list[Tensor]] = ([], [])
        for name, parameter in ours.items():
            target = theirs[name].to(parameter.dtype)
            if name in self.trained:
                moved[0].append(parameter)
                moved[1].append(target)
            else:
                parameter.copy_(target)
        if moved[0]:
            torch._foreach_mul_(moved[0], self.decay)
            torch._foreach_add_(moved[0], moved[1], alpha=1.0 - self.decay)
        buffers = dict(student.named_buffers())
        for name, buffer in self.module.named_buffers():
            buffer.copy_(buffers[name])

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode."""
        return super().train(False)
