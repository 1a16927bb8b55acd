"""Whole Zipformers against the released SPEAR code: every ``zipformer_*`` file with a config."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_audio.batch import EncoderOutput
from ssl_audio.models import Zipformer

TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}


class Case:
    """One golden file: config, weights, inputs and what came out."""

    def __init__(self, golden: Any) -> None:
        self.name, self.tensors, self.below = golden.name, golden.tensors, golden.below
        self.config: dict[str, Any] = ast.literal_eval(golden.meta["cfg"])
        num_mel_bins = int(golden.meta["n_mels"])
        if num_mel_bins:
            self.config["num_mel_bins"] = num_mel_bins
        inputs = ("feats", "feat_lens") if num_mel_bins else ("embed_out", "embed_lens")
        self.features, self.lengths = (self.tensors[name] for name in inputs)

    def model(self, **changes: Any) -> Zipformer:
        tensors = self.below("sd.")
        if changes.get("output_downsampling_factor", 1) == 2:
            tensors |= self.below("sd_extra_out2.")
        config = self.config | {"padding": "reference"} | changes
        return Zipformer.from_state_dict(tensors, config).eval()

    def clips(self) -> list[Tensor]:
        """The inputs one by one, without padding."""
        pairs = zip(self.features, self.lengths.tolist(), strict=True)
        return [features[None, :length] for features, length in pairs]


@pytest.fixture(scope="module")
def cases(golden: Callable[[str], list[Any]]) -> list[Case]:
    found = [Case(file) for file in golden("spear/zipformer_*") if "cfg" in file.meta]
    assert found, "no zipformer_* has a config"
    return found


def close(actual: Tensor, expected: Tensor, where: str) -> None:
    torch.testing.assert_close(actual, expected, **TOLERANCE, msg=lambda text: f"{where}\n{text}")


@torch.no_grad()
def test_outputs_and_hidden_states_of_a_padded_batch(cases: list[Case]) -> None:
    for case in cases:
        out = case.model().forward_features(case.features, case.lengths)
        close(out.frames, case.tensors["encoder_out"], f"{case.name} encoder_out")
        assert torch.equal(out.lengths, case.tensors["encoder_out_lens"])
        close(out.hidden_states[0], case.tensors["embed_out"], f"{case.name} embed_out")
        expected = case.below("hidden_states.")
        assert len(out.hidden_states) == len(expected) + 1
        for name, tensor in expected.items():
            close(out.hidden_states[int(name) + 1], tensor, f"{case.name} hidden_states.{name}")


@torch.no_grad()
def test_output_of_every_stack(cases: list[Case]) -> None:
    for case in cases:
        model = case.model()
        outputs: list[Tensor] = []

        def keep(module: nn.Module, args: Any, output: Any, outputs: list = outputs) -> None:
            outputs.append(output[0])

        for stack in model.encoder.encoders:
            stack.register_forward_hook(keep)
        model.forward_features(case.features, case.lengths)
        for name, tensor in case.below("stack_out.").items():
            close(outputs[int(name)], tensor, f"{case.name} stack_out.{name}")


@torch.no_grad()
def test_embedding_in_steps(cases: list[Case]) -> None:
    for case in cases:
        if "embed.conv_out_first4ch" not in case.tensors:
            continue
        embed = case.model().encoder_embed
        x = embed.conv(case.features[:, None])
        close(x[:, :4], case.tensors["embed.conv_out_first4ch"], f"{case.name} conv")
        x = embed.convnext(x)
        close(x[:, :4], case.tensors["embed.convnext_out_first4ch"], f"{case.name} convnext")


@torch.no_grad()
def test_output_at_half_the_rate(cases: list[Case]) -> None:
    for case in cases:
        model = case.model(output_downsampling_factor=2)
        out = model.forward_features(case.features, case.lengths)
        close(out.frames, case.tensors["out2.encoder_out"], f"{case.name} out2")
        assert torch.equal(out.lengths, case.tensors["out2.encoder_out_lens"])


@torch.no_grad()
@pytest.mark.parametrize("padding", ["exact", "reference"])
def test_a_clip_alone(cases: list[Case], padding: str) -> None:
    for case in cases:
        clip = case.clips()[1]
        for lengths in (None, torch.tensor([clip.shape[1]])):
            out = case.model(padding=padding).forward_features(clip, lengths)
            close(out.frames, case.tensors["item1_alone.encoder_out"], f"{case.name} {padding}")


@torch.no_grad()
@pytest.mark.parametrize("factor", [1, 2])
def test_exact_padding_never_reaches_a_valid_frame(cases: list[Case], factor: int) -> None:
    for case in cases:
        model = case.model(padding="exact", output_downsampling_factor=factor)
        batch = model.forward_features(case.features, case.lengths)
        for index, clip in enumerate(case.clips()):
            alone = model.forward_features(clip)
            assert alone.lengths[0] == batch.lengths[index]
            for actual, expected in zip(states(batch), states(alone), strict=True):
                actual = actual[index, : expected.shape[1]]
                torch.testing.assert_close(actual, expected[0], atol=1e-4, rtol=0)


def states(out: EncoderOutput) -> list[Tensor]:
    return [out.frames, *out.hidden_states]
