"""SPEAR's loss, from codes on the teachers' clocks to the gradient, against the first author's."""

from __future__ import annotations

import ast

import pytest
import torch
from torch import Tensor

from ssl_audio.batch import IGNORE_CODE, Tokens
from ssl_audio.models.heads import CodebookHeads
from ssl_audio.tasks.alignment import align_codes
from ssl_audio.tasks.spear_loss import SpearLoss, spear_loss

TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}
SPEECH_RATE_HZ, AUDIO_RATE_HZ = 50.0, 25.0


def loss_of(case, frames: Tensor, strategy: str) -> SpearLoss:
    tensors = case.tensors
    speech_ratio, audio_ratio = ast.literal_eval(case.meta["teacher_frame_ratio"])
    student_rate = SPEECH_RATE_HZ / speech_ratio
    assert audio_ratio == max(1, AUDIO_RATE_HZ / student_rate)
    logits, targets = {}, {}
    for name, rate in (("speech", SPEECH_RATE_HZ), ("audio", AUDIO_RATE_HZ)):
        heads = CodebookHeads.from_state_dict(
            {
                "linear2b_weight": tensors[f"sd.{name}.weight"],
                "linear2_bias": tensors[f"sd.{name}.bias"],
            }
        )
        codes = tensors[f"{name}_codes"]
        tokens = Tokens(codes, (codes != IGNORE_CODE).any(-1).sum(1))
        logits[name] = heads(frames)
        targets[name] = align_codes(tokens, frames.shape[1], student_rate, rate)
    return spear_loss(
        logits,
        targets,
        tensors["task_ids"] - 1,
        tensors["encoder_out_lens"],
        strategy=strategy,
        audio_scale=tensors["audio_loss_scale"].item(),
        count_beyond_length=True,
    )


@pytest.mark.parametrize("strategy", ["asymmetric", "disjoint"])
def test_total(golden, strategy: str) -> None:
    for case in golden("spear/spear_loss_*"):
        loss = loss_of(case, case.tensors["encoder_out"], strategy)
        torch.testing.assert_close(loss.total, case.tensors[f"total.{strategy}"], **TOLERANCE)


def test_clip_losses_and_gradient(golden) -> None:
    for case in golden("spear/spear_loss_*"):
        frames = case.tensors["encoder_out"].requires_grad_()
        loss = loss_of(case, frames, "asymmetric")
        for name in ("speech", "audio"):
            want = case.tensors[f"{name}_loss_per_utt"]
            torch.testing.assert_close(loss.teachers[name].clip_loss, want, **TOLERANCE)
        loss.total.backward()
        want = case.tensors["grad.encoder_out.asymmetric"]
        torch.testing.assert_close(frames.grad, want, **TOLERANCE)
