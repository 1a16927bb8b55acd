"""ScaledAdam trajectories and Eden rates against icefall's ``zipformer/optim.py``."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssl_audio.optim import ScaledAdam, eden_lr


def optional_float(text: str) -> float | None:
    return None if text == "None" else float(text)


def test_trajectories(golden) -> None:
    for case in golden("spear/scaled_adam_*"):
        params = {name: nn.Parameter(value) for name, value in case.below("init.").items()}
        grads, expected = case.below("grads."), case.below("params_after_step.")
        optimizer = ScaledAdam(
            params.values(),
            lr=float(case.meta["lr"]),
            clipping_scale=optional_float(case.meta["clipping_scale"]),
        )
        for step, lr in enumerate(case.tensors["lr"].tolist()):
            optimizer.param_groups[0]["lr"] = lr
            for name, param in params.items():
                param.grad = grads[name][step].clone()
            optimizer.step()
            for name, param in params.items():
                want = expected[name][step]
                # Entries that cross zero carry the round-off of the tensor's largest ones.
                atol = max(5e-6 * want.abs().max().item(), 1e-8)
                torch.testing.assert_close(
                    param.data,
                    want,
                    rtol=1e-3,
                    atol=atol,
                    msg=lambda text, where=f"{case.name}, {name}, step {step}": f"{where}: {text}",
                )


def test_eden_grid(golden) -> None:
    for case in golden("spear/eden_*"):
        settings = {
            "lr_batches": float(case.meta["lr_batches"]),
            "lr_epochs": float(case.meta["lr_epochs"]),
            "warmup_batches": float(case.meta["warmup_batches"]),
            "warmup_start": float(case.meta.get("warmup_start", 0.5)),
        }
        for row, batch in zip(case.tensors["lr"], case.tensors["batches"].tolist(), strict=True):
            for lr, hours in zip(row.tolist(), case.tensors["hours"].tolist(), strict=True):
                ours = eden_lr(float(case.meta["base_lr"]), batch, hours, **settings)
                assert ours == pytest.approx(lr, rel=1e-6)
