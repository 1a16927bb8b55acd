from __future__ import annotations

import pytest
import torch

from ssl_audio.models.heads import CodebookHeads, JointCodebookLoss


def test_heads_are_independent_linear_classifiers() -> None:
    heads = CodebookHeads(6, 3, 4)
    frames = torch.randn(2, 5, 6)
    logits = heads(frames)
    for n in range(3):
        torch.testing.assert_close(logits[:, :, n], frames @ heads.weight[n].T + heads.bias[n])


def test_heads_compute_in_float32_under_autocast() -> None:
    heads = CodebookHeads(6, 3, 4)
    frames = torch.randn(2, 5, 6).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = heads(frames)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, heads(frames.float()))


@pytest.mark.parametrize(
    "module", [CodebookHeads(64, 4, 128), JointCodebookLoss(64, 4, 32, 128)], ids=lambda m: type(m)
)
def test_every_parameter_is_initialised(module) -> None:
    with torch.no_grad():
        for param in module.parameters():
            param.fill_(torch.nan)
    module.reset_parameters()
    for name, param in module.named_parameters():
        assert param.isfinite().all(), name
        if param.ndim > 1 and name != "linear1.weight" and "bias" not in name:
            assert param.std().item() == pytest.approx(param.shape[-1] ** -0.5, rel=0.05), name


def test_official_names_round_trip() -> None:
    heads = CodebookHeads(6, 3, 4)
    official = heads.official_state_dict()
    assert official.keys() == {"linear2b_weight", "linear2_bias"}
    again = CodebookHeads.from_state_dict(official | {"linear1.weight": torch.zeros(2, 2)})
    frames = torch.randn(1, 2, 6)
    torch.testing.assert_close(again(frames), heads(frames))


def test_bad_state_dicts_are_named() -> None:
    official = CodebookHeads(6, 3, 4).official_state_dict()
    with pytest.raises(ValueError, match="lacks linear2_bias"):
        CodebookHeads.from_state_dict({"linear2b_weight": official["linear2b_weight"]})
    with pytest.raises(ValueError, match=r"weight \(3, 4, 6\) and bias \(4, 4\)"):
        CodebookHeads.from_state_dict(official | {"linear2_bias": torch.zeros(4, 4)})


def test_joint_loss_looks_at_earlier_codebooks_only() -> None:
    loss_of = JointCodebookLoss(6, 4, 8, 5)
    frames, codes = torch.randn(3, 6), torch.randint(5, (3, 4))
    changed = codes.clone()
    changed[:, 2] = (changed[:, 2] + 1) % 5
    before, after = loss_of(frames, codes), loss_of(frames, changed)
    torch.testing.assert_close(after[:, :2], before[:, :2])
    assert ((after[:, 3] - before[:, 3]).abs() > 1e-6).all()


def test_joint_loss_needs_two_codebooks() -> None:
    with pytest.raises(ValueError, match="num_codebooks >= 2, got 1"):
        JointCodebookLoss(6, 1)
