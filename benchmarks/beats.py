"""BEATs' encoder on 10 s clips against the same equations with materialised attention.

    python benchmarks/beats.py                       # Base, random weights, CPU, 1 thread
    python benchmarks/beats.py --device cuda --clips 32 --flex

The peer computes attention as the released code does: scores, gated bias of every clip and
probabilities as tensors of (clips, heads, patches, patches); and its positions by a grouped
convolution. The PyPI package ``openbeats`` is a second peer where it is installed. Same weights, no
dropout; outputs are compared. The last table drops 75 % of the patches before the encoder, with
dropout everywhere, as pre-training does. Times: process CPU time, on a GPU wall clock; runs are
interleaved, medians. The share of the FLOP limit is the matrix products of the model over what one
large product reaches in the same precision.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import conv1d, cross_entropy, gelu

from ssl_audio.memory import keep_freed_memory
from ssl_audio.models import BeatsEncoder
from ssl_audio.models.beats import Transformer
from ssl_audio.models.beats.attention import GatedAttention
from ssl_audio.models.beats.positions import (
    ConvolutionalPositions,
    RelativeBias,
    relative_buckets,
)

FRAMES, PATCHES, VISIBLE, CODES = 998, 496, 124, 1024  # 10 s
Run = Callable[[], Tensor]


class MaterialisedAttention(nn.Module):
    """Scores shifted and scaled as in the release, an own copy of the bias for every clip."""

    def __init__(self, attention: GatedAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, bias: Tensor, visible: Tensor | None) -> Tensor:
        own, scale = self.attention, 32.0
        query, key, value = (
            project(x).unflatten(-1, (own.num_heads, -1)).transpose(1, 2)
            for project in (own.q_proj, own.k_proj, own.v_proj)
        )
        scores = (query / query.shape[-1] ** 0.5 / scale) @ key.mT
        scores = (scores - scores.amax(-1, keepdim=True)) * scale
        if visible is not None:
            scores = scores.masked_fill(~visible[:, None, None], float("-inf"))
        a, b = own.grep_linear(query).unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, dim=-1)
        gate = a * (b * own.grep_a - 1.0) + 2.0
        probabilities = (scores + gate * bias.repeat(len(x), 1, 1, 1)).float().softmax(-1)
        y = probabilities.to(value.dtype) @ value
        return own.out_proj(y.transpose(1, 2).flatten(2))


class MaterialisedBias(nn.Module):
    """The bucket of every pair of patches, looked up."""

    def __init__(self, bias: RelativeBias) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, num_patches: int, positions: Tensor | None = None) -> Tensor:
        index = torch.arange(num_patches, device=self.bias.weight.device)
        table = self.bias.weight
        buckets = relative_buckets(index - index[:, None], len(table), self.bias.max_distance)
        return table[buckets].permute(2, 0, 1)[None]


class DirectPositions(nn.Module):
    """The grouped convolution as one."""

    def __init__(self, positions: ConvolutionalPositions) -> None:
        super().__init__()
        self.own = positions

    def forward(self, x: Tensor) -> Tensor:
        own, taps = self.own, self.own.weight_v.shape[2]
        norms = own.weight_v.square().sum((0, 1), keepdim=True).sqrt()
        weight = own.weight_v * (own.weight_g / norms)
        y = conv1d(x.mT, weight, own.bias, padding=taps // 2, groups=own.groups)
        return gelu(y[..., : x.shape[1]]).mT


class FlexAttention(nn.Module):
    """Bias and gate inside one kernel: no tensor of (clips, heads, patches, patches)."""

    def __init__(self, attention: GatedAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, bias: Tensor, visible: Tensor | None) -> Tensor:
        own = self.attention
        query, key, value = (
            project(x).unflatten(-1, (own.num_heads, -1)).transpose(1, 2)
            for project in (own.q_proj, own.k_proj, own.v_proj)
        )
        gate = own.gate(query)[..., 0]

        def score(score: Tensor, clip: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return score + gate[clip, head, q] * bias[0, head, q, k]

        y = flex_attention(query, key, value, score_mod=score)
        return own.out_proj(y.transpose(1, 2).flatten(2))


def with_attention(
    encoder: BeatsEncoder, attention: Callable[[GatedAttention], nn.Module]
) -> BeatsEncoder:
    other = copy.deepcopy(encoder)
    for layer in other.encoder.layers:
        layer.self_attn = attention(layer.self_attn)
    return other


def openbeats_peer(encoder: BeatsEncoder) -> Callable[[Tensor], Tensor] | None:
    try:
        from openbeats.beats_encoder import BeatsEncoder as OpenBeats
    except ImportError:
        return None
    settings = encoder.settings
    config = {name: value for name, value in encoder.config.items() if name != "labels"}
    peer = OpenBeats(0, beats_config=config)
    peer.load_state_dict(encoder.official_state_dict(), strict=False)
    peer.to(next(encoder.parameters()).device).eval()

    def run(features: Tensor) -> Tensor:
        fbank = features * (2 * settings.fbank_std) + settings.fbank_mean
        lengths = torch.full((len(features),), features.shape[1], device=features.device)
        return peer(fbank, lengths, waveform_input=False)[0]

    return run


class Pretraining(nn.Module):
    """One masked prediction: encoder, placeholders, three layers over all patches, codes."""

    def __init__(self, encoder: BeatsEncoder) -> None:
        super().__init__()
        config = replace(encoder.settings.transformer(), num_layers=3)
        self.encoder, self.predictor = encoder, Transformer(config)
        self.placeholder = nn.Parameter(torch.zeros(config.dim))
        self.classify = nn.Linear(config.dim, CODES)

    def forward(self, features: Tensor, visible: Tensor | None) -> Tensor:
        patches, _ = self.encoder.patchify(features)
        if visible is None:
            full = self.encoder.encode_patches(patches).frames
        else:
            frames = self.encoder.encode_patches(patches.index_select(1, visible)).frames
            full = self.placeholder.to(frames.dtype).expand(patches.shape)
            full = full.index_copy(1, visible, frames)
        scores = self.classify(self.predictor(full)[-1][:, VISIBLE:]).flatten(0, 1)
        codes = torch.arange(len(scores), device=scores.device) % CODES
        return cross_entropy(scores.float(), codes)


class Bench:
    """Interleaved timings on one device in one precision."""

    def __init__(self, device: str, precision: str, rounds: int) -> None:
        self.device, self.precision, self.rounds = device, precision, rounds
        self.limit = self._product_limit()

    def cast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")

    def medians(self, runs: dict[str, Run], backward: bool) -> dict[str, float]:
        times: dict[str, list[float]] = {name: [] for name in runs}
        for index in range(self.rounds + 1):
            for name, run in runs.items():
                seconds = self._seconds(run, backward)
                if index:  # the first round compiles and warms up
                    times[name].append(seconds)
        return {name: statistics.median(found) for name, found in times.items()}

    def _seconds(self, run: Run, backward: bool) -> float:
        clock = time.perf_counter if self.device == "cuda" else time.process_time
        self._wait()
        start = clock()
        with torch.set_grad_enabled(backward), self.cast():
            out = run()
        if backward:
            out.float().square().mean().backward()
        self._wait()
        return clock() - start

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _product_limit(self) -> float:
        """FLOP/s of one large matrix product."""
        size = 8192 if self.device == "cuda" else 2048
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        x = torch.randn(size, size, device=self.device, dtype=dtype)
        best = min(self._seconds(lambda: x @ x, False) for _ in range(6))
        return 2 * size**3 / best


def forward_flops(encoder: BeatsEncoder, num_patches: int) -> float:
    """Matrix products of one clip; backward costs twice as much again."""
    own = encoder.settings
    width, ffn = own.encoder_embed_dim, own.encoder_ffn_embed_dim
    layer = 2 * (4 * width**2 + 2 * width * ffn) + 4 * num_patches * width
    positions = 2 * width * (width // own.conv_pos_groups) * own.conv_pos
    patch = 2 * own.embed_dim * (own.input_patch_size**2 + width)
    return num_patches * (own.encoder_layers * layer + positions + patch)


def compare_attention(
    bench: Bench,
    encoder: BeatsEncoder,
    arguments: argparse.Namespace,
    peer_float32: dict[bool, float],
) -> None:
    """``peer_float32``: seconds of the peer in float32, without and with backward; kept between
    precisions."""
    features = torch.randn(arguments.clips, FRAMES, 128, device=bench.device) / 2
    peer = with_attention(encoder, MaterialisedAttention)
    peer.encoder.pos_conv = DirectPositions(peer.encoder.pos_conv)
    peer.encoder.relative_attention_bias = MaterialisedBias(peer.encoder.relative_attention_bias)
    runs: dict[str, Run] = {"materialised": lambda: peer.forward_features(features).frames}
    if (package := openbeats_peer(encoder)) is not None:
        runs["openbeats"] = lambda: package(features)
    runs["ours"] = lambda: encoder.forward_features(features).frames
    if arguments.compile:
        compiled = torch.compile(copy.deepcopy(encoder).forward_features)
        runs["ours compiled"] = lambda: compiled(features).frames
    if arguments.flex:
        flexible = torch.compile(with_attention(encoder, FlexAttention).forward_features)
        runs["ours flex"] = lambda: flexible(features).frames
    with torch.no_grad(), bench.cast():
        expected = runs["materialised"]().float()
        for name, run in runs.items():
            print(f"  largest difference, {name}: {(run().float() - expected).abs().max():.1e}")
    for backward in arguments.backward:
        medians = bench.medians(runs, backward)
        flops = forward_flops(encoder, PATCHES) * arguments.clips * (3 if backward else 1)
        if bench.precision == "float32":
            peer_float32[backward] = medians["materialised"]
        whole = peer_float32.get(backward, math.nan)
        for name, seconds in medians.items():
            print(
                f"  {bench.precision} {'forward+backward' if backward else 'forward'} {name}: "
                f"{10 * arguments.clips / seconds:.1f} audio-s/s, "
                f"{medians['materialised'] / seconds:.2f} x materialised, "
                f"{whole / seconds:.2f} x it in float32, "
                f"{flops / seconds / bench.limit:.0%} of the FLOP limit"
            )


def compare_masking(bench: Bench, encoder: BeatsEncoder, arguments: argparse.Namespace) -> None:
    """Forward and backward of body and step, all patches against a quarter, with dropout."""
    step = Pretraining(encoder).to(bench.device).train()
    features = torch.randn(arguments.clips, FRAMES, 128, device=bench.device) / 2
    patches = torch.randn(arguments.clips, PATCHES, encoder.embed_dim, device=bench.device)
    visible = torch.randperm(PATCHES, device=bench.device)[:VISIBLE].sort().values
    positions = visible.expand(arguments.clips, -1)

    def body(part: Tensor, *where: object) -> Tensor:
        return encoder.encode_patches(part, None, *where).frames

    runs: dict[str, Run] = {
        "body, all": lambda: body(patches),
        "body, quarter": lambda: body(patches.index_select(1, visible)),
        "body, quarter at original positions": lambda: body(
            patches.index_select(1, visible), positions, PATCHES
        ),
        "step, all": lambda: step(features, None),
        "step, quarter": lambda: step(features, visible),
    }
    medians = bench.medians(runs, backward=True)
    encoder.eval()
    for name, seconds in medians.items():
        whole = medians[f"{name.partition(',')[0]}, all"]
        print(f"  {bench.precision} {name}: {1e3 * seconds:.0f} ms, {whole / seconds:.2f} x all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", nargs="*", default=["float32", "bf16"])
    parser.add_argument("--part", nargs="*", default=["attention", "masking"])
    parser.add_argument("--only", choices=["forward", "backward"], help="skip the other timing")
    parser.add_argument("--flex", action="store_true", help="FlexAttention too, for GPUs")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    arguments = parser.parse_args()
    if arguments.flex and arguments.device == "cpu":
        parser.error("--flex needs --device cuda: FlexAttention has no backward on a CPU")
    arguments.backward = {"forward": [False], "backward": [True]}.get(arguments.only, [False, True])
    torch.set_num_threads(1)
    keep_freed_memory()  # for both sides
    torch.manual_seed(0)
    encoder = BeatsEncoder(encoder_layers=arguments.layers).eval().to(arguments.device)
    peer_float32: dict[bool, float] = {}
    for precision in arguments.precision:
        bench = Bench(arguments.device, precision, arguments.rounds)
        print(f"{arguments.device} {precision}, {bench.limit / 1e9:.0f} GFLOP/s in one product")
        if "attention" in arguments.part:
            compare_attention(bench, encoder, arguments, peer_float32)
        if "masking" in arguments.part:
            compare_masking(bench, encoder, arguments)


if __name__ == "__main__":
    main()
