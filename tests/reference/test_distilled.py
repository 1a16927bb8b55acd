"""DistilledTokenizer and Estimator against the BEATs release and OpenBEATs.

Every ``tokenizer*`` and ``openbeats_tokenizer*`` pair of files, every tokenizer ``.pt``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ssl_audio
from ssl_audio.batch import IGNORE_CODE, valid_mask
from ssl_audio.models.beats.checkpoint import our_tensors
from ssl_audio.tokenizers import DistilledTokenizer
from ssl_audio.tokenizers.estimator import Estimator, cosine_distance

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
LOSS_TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def pairs(golden: Callable[[str], list[Any]], stem: str) -> list[tuple[str, Any, Any]]:
    """Suffix, state file and io file of ``<stem><suffix>_{state,io}``."""
    states = {case.name.removesuffix("_state"): case for case in golden(f"beats/{stem}*_state")}
    found = []
    for io in golden(f"beats/{stem}*_io"):
        name = io.name.removesuffix("_io")
        found.append((name.removeprefix(stem), states[name], io))
    return found


def config_of(case: Any) -> dict[str, Any]:
    config = json.loads(case.meta["config"])
    return config.get("cfg", config)


@torch.no_grad()
@pytest.mark.parametrize("run", ["nopad", "pad"])
def test_labels_and_what_leads_to_them(golden, run: str) -> None:
    for suffix, state, io in pairs(golden, "tokenizer"):
        config = config_of(state) | {"padding": "reference"}
        tokenizer = DistilledTokenizer.from_state_dict(state.tensors, config).eval()
        waveforms, padded = io.tensors["waveform"], io.tensors["padding_mask"].bool()
        if run == "nopad":
            padded = torch.zeros_like(padded)
        lengths = (~padded).sum(1)
        assert torch.equal(padded, ~valid_mask(lengths, padded.shape[1]))
        expected = io.below(f"{run}.")
        shape = expected["z_q"].shape[:2]
        labels = expected["labels"].view(shape)

        features, frame_lengths = tokenizer.encoder.features(waveforms, lengths)
        projected, patch_lengths = tokenizer.project(features, frame_lengths)
        valid = valid_mask(patch_lengths, shape[1])
        if run == "pad":
            assert torch.equal(valid, ~expected["padding_mask_patches"].bool()), suffix
        encoded = tokenizer.encoder.forward_features(features, frame_lengths).frames
        close(encoded[valid], expected["encoder_out"][valid])
        close(projected[valid], expected["quantize_input"][valid])

        tokens = tokenizer.encode(waveforms, lengths)
        assert torch.equal(tokens.lengths, patch_lengths)
        assert torch.equal(tokens.codes[..., 0], labels.masked_fill(~valid, IGNORE_CODE)), suffix
        quantized = tokenizer.codebook(projected)  # the original quantizes padding too
        close(quantized.vectors[valid], expected["z_q"][valid])
        loss = quantized.commitment.mean()
        torch.testing.assert_close(loss, expected["embed_loss"].squeeze(), **LOSS_TOLERANCE)
        usage = tokenizer.codebook.usage
        counts = torch.bincount(quantized.codes.flatten(), minlength=len(usage))
        decay = tokenizer.codebook.decay
        moved = decay * usage + (1 - decay) * counts  # in the original, eval mode does this
        torch.testing.assert_close(moved, expected["cluster_size_after"], **LOSS_TOLERANCE)


@torch.no_grad()
def test_distillation_forward(golden) -> None:
    """OpenBEATs averages the commitment over padding too, and weighs it by its config."""
    inputs = {case.name: case.tensors for case in golden("beats/openbeats_pretrain*_io")}
    for suffix, state, io in pairs(golden, "openbeats_tokenizer"):
        config, expected = config_of(state), io.tensors
        tokenizer = DistilledTokenizer.from_state_dict(state.below("tokenizer."), config).eval()
        estimator = estimator_of(state, config, tokenizer).eval()
        case = inputs[f"openbeats_pretrain{suffix}_io"]
        features = tokenizer.encoder.normalize(case["fbank"])
        projected, lengths = tokenizer.project(features, case["fbank_lengths"])
        assert torch.equal(lengths, expected["code_lengths"]), suffix
        valid = valid_mask(lengths, projected.shape[1])
        quantized = tokenizer.forward_features(features, case["fbank_lengths"]).quantized
        assert torch.equal(quantized.codes[valid], expected["codes"][valid]), suffix
        close(quantized.vectors[valid], expected["quantize_feature"][valid])

        predicted = estimator(quantized.vectors, lengths)
        close(predicted[valid], expected["estimator_out"][valid])
        similarity = cosine_distance(predicted, expected["teacher_rep"])[valid].mean()
        commitment = tokenizer.codebook(projected).commitment.mean()
        embed_loss = config["embed_loss_beta"] * commitment
        for name, loss in {
            "similarity_loss": similarity,
            "embed_loss": embed_loss,
            "total_loss": similarity + embed_loss,
        }.items():
            torch.testing.assert_close(loss, expected[name].squeeze(), **LOSS_TOLERANCE, msg=name)


def estimator_of(state: Any, config: dict[str, Any], tokenizer: DistilledTokenizer) -> Estimator:
    layers = replace(tokenizer.encoder.settings.transformer(), num_layers=config["decoder_layers"])
    estimator = Estimator(config["quant_dim"], layers, layers.dim)
    ours = {
        "connector_layer.": "connector.",
        "decoder_norm.": "norm.",
        "layers.": "transformer.layers.",
        "relative_attention_bias.": "transformer.relative_attention_bias.",
    }
    tensors = {}
    for name, tensor in our_tensors(state.below("estimator."), state.name).items():
        prefix = next(prefix for prefix in ours if name.startswith(prefix))
        tensors[ours[prefix] + name.removeprefix(prefix)] = tensor
    estimator.load_state_dict(tensors)
    return estimator


@torch.no_grad()
def test_released_files(golden, reference_dir: Path) -> None:
    paths = sorted((reference_dir / "beats").glob("*checkpoint_tokenizer*.pt"))
    assert paths
    states = {suffix: state for suffix, state, _ in pairs(golden, "tokenizer")}
    for path in paths:
        state = states[path.stem.partition("checkpoint_tokenizer")[2]]
        expected = DistilledTokenizer.from_state_dict(state.tensors, config_of(state))
        for tokenizer in (
            DistilledTokenizer.from_checkpoint(path),
            ssl_audio.load_tokenizer(path),
        ):
            assert tokenizer.config == expected.config
            for name, tensor in tokenizer.state_dict().items():
                assert torch.equal(tensor, expected.state_dict()[name]), name


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, **TOLERANCE)
