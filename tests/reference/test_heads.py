"""Prediction heads against ``multi_quantization/prediction.py``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_audio.batch import IGNORE_CODE
from ssl_audio.models.heads import CodebookHeads, JointCodebookLoss

TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}


def assert_gradients(module: nn.Module, names: dict[str, str], want: dict[str, Tensor]) -> None:
    for name, param in module.named_parameters():
        torch.testing.assert_close(param.grad, want[names.get(name, name)], **TOLERANCE)


def test_joint_form(golden) -> None:
    for case in golden("spear/prediction_head*"):
        head = JointCodebookLoss(
            int(case.meta["predictor_channels"]),
            int(case.meta["num_codebooks"]),
            int(case.meta["hidden_channels"]),
            int(case.meta["codebook_size"]),
        )
        head.load_state_dict(case.below("sd."), strict=True)
        frames = case.tensors["predictor"].requires_grad_()
        loss = head(frames, case.tensors["codes"])
        loss.sum().backward()
        want = case.below("joint.")
        torch.testing.assert_close(loss.flatten(), want["loss_none"].flatten(), **TOLERANCE)
        torch.testing.assert_close(loss.sum(), want["loss_sum"], **TOLERANCE)
        torch.testing.assert_close(frames.grad, want["grad.predictor"], **TOLERANCE)
        assert_gradients(head, {}, case.below("joint.grad."))


def test_independent_form(golden) -> None:
    for case in golden("spear/prediction_head*"):
        heads = CodebookHeads.from_state_dict(case.below("sd."))
        frames, codes = case.tensors["predictor"].requires_grad_(), case.tensors["codes"]
        logits = heads(frames)
        assert logits.shape == (*codes.shape, int(case.meta["codebook_size"]))
        loss = F.cross_entropy(
            logits.flatten(0, -2), codes.flatten(), ignore_index=IGNORE_CODE, reduction="none"
        )
        loss.sum().backward()
        want = case.below("independent.")
        torch.testing.assert_close(loss, want["loss_none"].flatten(), **TOLERANCE)
        torch.testing.assert_close(frames.grad, want["grad.predictor"], **TOLERANCE)
        names = {"weight": "linear2b_weight", "bias": "linear2_bias"}
        assert_gradients(heads, names, case.below("independent.grad."))
