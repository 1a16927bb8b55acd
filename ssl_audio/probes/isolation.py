"""Running a module beside training without training noticing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import nn


@contextmanager
def undisturbed(module: nn.Module, autocast: torch.dtype | None = None) -> Iterator[None]:
    """Evaluation mode, no gradients, no autocast unless asked; afterwards all is as it was.

    The mode of each submodule and the random states (python, numpy, torch on the CPU and on every
    initialised accelerator) are restored, also after an exception. Gradients are switched off by
    ``no_grad`` and not by ``inference_mode``: a table that a module builds and keeps in its first
    forward pass would be an inference tensor, which the next training step could not use.
    """
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        with (
            same_random_state(),
            torch.no_grad(),
            torch.autocast(device_of(module).type, autocast, enabled=autocast is not None),
            torch.compiler.set_stance("force_eager") if is_compiled(module) else nullcontext(),
        ):
            yield
    finally:
        for child, training in modes:
            child.training = training


@contextmanager
def same_random_state() -> Iterator[None]:
    """Afterwards all random states are as they were."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)


def device_of(module: nn.Module) -> torch.device:
    """Where the module's first parameter or buffer lies, the CPU if it has none."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")


def is_compiled(module: nn.Module) -> bool:
    """Whether ``torch.compile`` wraps the module or any part of it."""
    return any(
        hasattr(child, "_orig_mod") or getattr(child, "_compiled_call_impl", None) is not None
        for child in module.modules()
    )
