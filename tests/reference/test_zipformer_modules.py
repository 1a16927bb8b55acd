"""Zipformer's parts, one by one, against the released SPEAR code; layout (T, B, C) there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_audio.models.zipformer.attention import AttentionWeights, NonlinAttention, SelfAttention
from ssl_audio.models.zipformer.bypass import Bypass
from ssl_audio.models.zipformer.conv import ConvModule
from ssl_audio.models.zipformer.feed_forward import FeedForward
from ssl_audio.models.zipformer.layer import LayerSizes, ZipformerLayer
from ssl_audio.models.zipformer.norm import BiasNorm
from ssl_audio.models.zipformer.positional import relative_positions
from ssl_audio.models.zipformer.stack import Downsample, upsample
from ssl_audio.models.zipformer.swoosh import swoosh_l, swoosh_r
from ssl_audio.models.zipformer.trunk import fit_channels

TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}


class Modules:
    """The tensors of a golden file, batch first, and its sizes."""

    def __init__(self, golden: Any) -> None:
        self.tensors = golden.tensors
        meta = {key: int(value) for key, value in golden.meta.items()}
        self.sizes = LayerSizes(
            dim=meta["C"],
            num_heads=meta["heads"],
            **{
                key: meta[key]
                for key in LayerSizes.__dataclass_fields__
                if key not in ("dim", "num_heads")
            },
        )
        self.x = self["x"]
        self.padding = self.tensors["padding_mask"]
        self.positions = relative_positions(self.x.shape[1], self.sizes.pos_dim)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name].transpose(0, 1)

    def names(self, prefix: str) -> list[str]:
        return [name.removeprefix(prefix) for name in self.tensors if name.startswith(prefix)]

    def load(self, module: nn.Module, prefix: str) -> nn.Module:
        names = self.names(f"{prefix}.sd.")
        module.load_state_dict({name: self.tensors[f"{prefix}.sd.{name}"] for name in names})
        return module.eval()

    def attention_weights(self) -> Tensor:
        sizes = self.sizes
        module = AttentionWeights(
            sizes.dim, sizes.num_heads, sizes.query_head_dim, sizes.pos_head_dim, sizes.pos_dim
        )
        weights = self.load(module, "attn_weights")(self.x, self.positions, self.padding)
        assert isinstance(weights, Tensor)
        return weights


@pytest.fixture(scope="module")
def files(golden: Callable[[str], list[Any]]) -> list[Modules]:
    return [Modules(file) for file in golden("spear/zipformer_modules*")]


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, **TOLERANCE)


def test_swoosh(files: list[Modules]) -> None:
    for file in files:
        for letter, function in (("L", swoosh_l), ("R", swoosh_r)):
            x = file.tensors["swoosh.x"].clone().requires_grad_()
            y = function(x)
            torch.testing.assert_close(y, file.tensors[f"swoosh.{letter}"], atol=2e-5, rtol=1e-5)
            y.sum().backward()
            expected = file.tensors[f"swoosh.{letter}_deriv_float64"].float()
            torch.testing.assert_close(x.grad, expected, atol=1e-6, rtol=1e-5)


def test_bias_norm_and_its_gradients(files: list[Modules]) -> None:
    for file in files:
        norm = file.load(BiasNorm(file.sizes.dim), "biasnorm")
        x = file["biasnorm.x"].clone().requires_grad_()
        y = norm(x)
        close(y, file["biasnorm.y"])
        y.backward(file["biasnorm.grad_out"])
        close(x.grad, file["biasnorm.grad_x"])
        close(norm.bias.grad, file.tensors["biasnorm.grad_bias"])
        close(norm.log_scale.grad, file.tensors["biasnorm.grad_log_scale"])


def test_relative_positions(files: list[Modules]) -> None:
    for file in files:
        for name in file.names("pos.dim"):
            dim, num_frames = map(int, name.split("_T"))
            close(relative_positions(num_frames, dim), file.tensors[f"pos.dim{name}"])


@torch.no_grad()
def test_attention(files: list[Modules]) -> None:
    for file in files:
        weights = file.attention_weights()
        close(weights.transpose(0, 1), file.tensors["attn_weights.out"])
        sizes = file.sizes
        module = SelfAttention(sizes.dim, sizes.num_heads, sizes.value_head_dim)
        attended = file.load(module, "self_attn")(file.x, weights)
        close(attended, file["self_attn.out"])
        gated = file.load(NonlinAttention(sizes.dim, 3 * sizes.dim // 4), "nonlin_attention")
        close(gated(file.x, weights[:, 0]), file["nonlin_attention.out"])


@torch.no_grad()
def test_feed_forward_and_convolution(files: list[Modules]) -> None:
    for file in files:
        sizes = file.sizes
        feed_forward = file.load(FeedForward(sizes.dim, sizes.feedforward_dim), "feed_forward")
        close(feed_forward(file.x), file["feed_forward.out"])
        conv = file.load(ConvModule(sizes.dim, sizes.cnn_module_kernel), "conv_module")
        close(conv(file.x, file.padding), file["conv_module.out"])
        close(conv(file.x), file["conv_module.out_nomask"])


@torch.no_grad()
def test_resampling_bypass_and_channels(files: list[Modules]) -> None:
    for file in files:
        factors = [int(name.split(".")[0]) for name in file.names("downsample") if ".out" in name]
        assert factors
        for factor in factors:
            module = file.load(Downsample(factor), f"downsample{factor}")
            low = module(file.x)
            close(low, file[f"downsample{factor}.out"])
            high = file[f"upsample{factor}.out"]
            close(upsample(low, factor, high.shape[1]), high)
        bypass = file.load(Bypass(file.sizes.dim), "bypass")
        close(bypass(file.x, file["bypass.src"]), file["bypass.out"])
        for name in file.names("convert_num_channels."):
            expected = file[f"convert_num_channels.{name}"]
            close(fit_channels(file.x, expected.shape[-1]), expected)


@torch.no_grad()
def test_layer(files: list[Modules]) -> None:
    for file in files:
        layer = file.load(ZipformerLayer(file.sizes), "layer")
        close(layer(file.x, file.positions, file.padding), file["layer.out"])
