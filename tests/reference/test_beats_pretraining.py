"""Masked prediction against OpenBEATs: mask, encoder on kept patches, label predictor, loss.

Every ``openbeats_pretrain*`` pair of files.
"""

from __future__ import annotations

import json

import pytest
import torch

from ssl_audio.models import BeatsEncoder
from ssl_audio.models.label_predictor import LabelPredictor, predictor_layers
from ssl_audio.tasks.beats import masked_prediction_loss
from ssl_audio.tasks.patch_masking import gather_patches, keep_lowest

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
LOSS_TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def cases(golden):
    states = {case.name: case for case in golden("beats/openbeats_pretrain*_state")}
    inputs = golden("beats/openbeats_pretrain*_io")
    return [(states[case.name.removesuffix("io") + "state"], case.tensors) for case in inputs]


def mask_of(config, expected):
    return keep_lowest(expected["noise"], expected["patch_lengths"], config["mask_ratio"])


def test_kept_patches(cases):
    for state, expected in cases:
        config = json.loads(state.meta["config"])
        mask = mask_of(config, expected)
        assert torch.equal(mask.visible, expected["kept_mask"].bool())
        assert torch.equal(mask.num_visible, expected["n_kept"])
        positions = expected["kept_positions"]
        assert torch.equal(mask.positions, positions.clamp_min(0))


@torch.no_grad()
def test_forward_and_loss(cases):
    for state, expected in cases:
        config = json.loads(state.meta["config"])
        encoder = BeatsEncoder.from_state_dict(state.below("encoder."), config).eval()
        layers = predictor_layers(
            encoder.settings.transformer(), config["decoder_embed_dim"], config["decoder_layers"]
        )
        predictor = LabelPredictor.from_state_dict(state.below("decoder."), layers).eval()
        mask = mask_of(config, expected)

        features = encoder.normalize(expected["fbank"])
        patches, lengths = encoder.patchify(features, expected["fbank_lengths"])
        assert torch.equal(lengths, expected["patch_lengths"])
        out = encoder.encode_patches(gather_patches(patches, mask.positions), mask.num_visible)
        for row, want, count in zip(
            out.frames, expected["encoder_out"], mask.num_visible, strict=True
        ):
            torch.testing.assert_close(row[:count], want[:count], **TOLERANCE)

        everywhere = predictor(out.frames, mask.visible, lengths)
        valid = torch.arange(everywhere.shape[1]) < lengths[:, None]
        torch.testing.assert_close(everywhere[valid], expected["logits"][valid], **TOLERANCE)
        logits = predictor(out.frames, mask.visible, lengths, mask.masked)
        codes = expected["target"] - 1
        targets = codes.flatten()[mask.masked]
        names = [name for name in expected if name.startswith("loss_smoothing")]
        assert names
        for name in names:  # loss_smoothing0, loss_smoothing0_1
            smoothing = float(name.removeprefix("loss_smoothing").replace("_", "."))
            loss = masked_prediction_loss(logits, targets, smoothing).mean()
            torch.testing.assert_close(loss, expected[name].squeeze(), **LOSS_TOLERANCE)
        correct = everywhere.argmax(-1) == codes
        for chosen, name in (
            (valid & ~mask.visible, "acc_masked"),
            (valid & mask.visible, "acc_unmasked"),
        ):
            accuracy = correct[chosen].float().mean()
            torch.testing.assert_close(accuracy, expected[name].squeeze(), **LOSS_TOLERANCE)
