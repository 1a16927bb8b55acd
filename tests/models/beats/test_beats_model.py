"""The encoder as its users see it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

import ssl_audio
from ssl_audio.models import BeatsEncoder

Build = Callable[..., BeatsEncoder]
VARIANTS = [
    {},
    {"layer_norm_first": True, "deep_norm": False},
    {"activation_fn": "glu", "deep_norm": False},
    {"gru_rel_pos": False, "conv_pos": 5},
    {"relative_position_embedding": False, "embed_dim": 16, "conv_bias": True},
    {"input_patch_size": 8, "activation_fn": "gelu_fast"},
    {"finetuned_model": True, "predictor_class": 3, "labels": ("a", "b", "c")},
]


@pytest.mark.parametrize(
    ("changes", "num_tensors", "num_parameters"),
    [
        ({}, 250, 90_311_792),
        ({"finetuned_model": True}, 252, 90_311_792 + 769 * 527),
        (
            {
                "encoder_layers": 24,
                "encoder_embed_dim": 1024,
                "encoder_ffn_embed_dim": 4096,
                "encoder_attention_heads": 16,
            },
            None,
            311_000_000,
        ),
    ],
)
def test_released_sizes(changes: dict, num_tensors: int | None, num_parameters: int) -> None:
    with torch.device("meta"):
        model = BeatsEncoder(**changes)
    found = sum(x.numel() for x in model.parameters())
    if num_tensors is None:
        assert found == pytest.approx(num_parameters, rel=0.005)
    else:
        assert found == num_parameters
        assert len(model.official_state_dict()) == num_tensors


def test_initial_weights_of_the_base_model() -> None:
    """Standard deviations measured on the released class."""
    torch.manual_seed(0)
    model = BeatsEncoder(encoder_layers=12)
    layer = model.encoder.layers[7]
    expected = {
        layer.self_attn.q_proj: 0.0361,
        layer.self_attn.k_proj: 0.0361,
        layer.self_attn.v_proj: 0.0115,
        layer.self_attn.out_proj: 0.0115,
        layer.fc1: 0.0073,
        layer.fc2: 0.0073,
        layer.self_attn.grep_linear: 0.02,
    }
    for module, std in expected.items():
        rel = 0.2 if module.weight.numel() < 1000 else 0.02
        assert module.weight.std().item() == pytest.approx(std, rel=rel)
        assert not module.bias.any()
    assert model.encoder.pos_conv.weight_v.std().item() == pytest.approx(0.0064, rel=0.02)
    assert model.encoder.relative_attention_bias.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert (layer.self_attn.grep_a == 1).all()


@torch.no_grad()
@pytest.mark.parametrize("changes", VARIANTS)
def test_one_clock_and_the_shapes_on_it(tiny: Build, changes: dict) -> None:
    model = tiny(**changes)
    lengths = torch.tensor([16_000, 1_600, 9_999])
    out = model(torch.randn(3, 16_000), lengths)
    assert out.lengths.tolist() == [model.num_frames(n) for n in lengths.tolist()]
    assert torch.equal(out.lengths, model.num_frames(lengths))
    assert out.frames.shape == (3, model.num_frames(16_000), model.embed_dim)
    assert len(out.hidden_states) == model.num_layers + 1
    rows = model.time_rows(out.frames)
    assert rows.shape[1:3] == (
        16_000 // 160 // model.settings.input_patch_size,
        model.patches_per_row,
    )
    assert torch.equal(rows.flatten(1, 2), out.frames)


def test_ten_seconds_are_496_patches() -> None:
    with torch.device("meta"):
        model = BeatsEncoder()
    assert (model.num_frames(160_000), model.frame_rate, model.patches_per_row) == (496, 50.0, 8)


@torch.no_grad()
@pytest.mark.parametrize("changes", VARIANTS)
def test_a_clip_alone_equals_the_clip_in_a_padded_batch(tiny: Build, changes: dict) -> None:
    model = tiny(**changes)
    waveforms = 0.1 * torch.randn(3, 16_345)
    lengths = torch.tensor([16_345, 7_000, 3_345])
    batch = model(waveforms, lengths)
    for index, length in enumerate(lengths.tolist()):
        clip = waveforms[index : index + 1, :length]
        alone = model(clip)
        states = zip(
            (batch.frames, *batch.hidden_states), (alone.frames, *alone.hidden_states), strict=True
        )
        for padded, expected in states:
            actual = padded[index, : expected.shape[1]]
            torch.testing.assert_close(actual, expected[0], atol=1e-4, rtol=0)
        if model.predictor is not None:
            torch.testing.assert_close(
                model.logits(batch)[index : index + 1], model.logits(alone), atol=1e-4, rtol=0
            )


@torch.no_grad()
def test_what_padding_holds_does_not_matter(tiny: Build) -> None:
    model = tiny()
    features, lengths = torch.randn(2, 60, 128), torch.tensor([60, 37])
    expected = model.forward_features(features, lengths).frames[1, :16]
    features[1, 32:] = math.nan
    actual = model.forward_features(features, lengths).frames[1, :16]
    torch.testing.assert_close(actual, expected)


@torch.no_grad()
@pytest.mark.parametrize("patch_size", [8, 16])
def test_without_padding_both_conventions_are_one(tiny: Build, patch_size: int) -> None:
    waveforms = torch.randn(2, 9_000)
    exact, reference = (
        tiny(padding=name, input_patch_size=patch_size)(waveforms)
        for name in ("exact", "reference")
    )
    assert torch.equal(exact.frames, reference.frames)
    assert torch.equal(exact.lengths, reference.lengths)


def test_the_reference_convention_cannot_fold_small_patches(tiny: Build) -> None:
    model = tiny(padding="reference", input_patch_size=8)
    with pytest.raises(ValueError, match="use padding='exact'"):
        model(torch.randn(2, 9_000), torch.tensor([9_000, 4_000]))


@pytest.mark.parametrize("changes", [{}, {"relative_position_embedding": False}])
def test_short_clips_are_padded_and_marked(tiny: Build, changes: dict) -> None:
    model = tiny(**changes)
    with torch.no_grad():
        alone = model(torch.randn(1, 100))
    assert alone.frames.shape == (1, 8, 16)
    assert alone.lengths.tolist() == [0]
    assert alone.frames.isfinite().all()
    with torch.no_grad():
        batch = model(torch.randn(2, 8_000), torch.tensor([8_000, 2_799]))
    assert batch.lengths.tolist() == [model.num_frames(8_000), 0]
    assert batch.frames.isfinite().all()


@pytest.mark.parametrize("changes", VARIANTS)
def test_a_batch_of_nothing_but_padding_is_finite(tiny: Build, changes: dict) -> None:
    model = tiny(**changes).train()
    out = model(torch.zeros(2, 8_000), torch.zeros(2, dtype=torch.int64))
    assert not out.lengths.any()
    loss = out.frames.square().sum()
    if model.predictor is not None:
        loss = loss + model.logits(out).square().sum()
    loss.backward()
    assert all(state.isfinite().all() for state in out.hidden_states)
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@torch.no_grad()
@pytest.mark.parametrize("changes", VARIANTS)
def test_exports(tiny: Build, changes: dict, tmp_path) -> None:
    model, waveforms = tiny(**changes), torch.randn(2, 8_000)
    loaded = ssl_audio.load_encoder(ssl_audio.save(model, tmp_path))
    assert torch.equal(loaded(waveforms).frames, model(waveforms).frames)
    assert loaded.config == model.config


@torch.no_grad()
@pytest.mark.parametrize("changes", VARIANTS)
def test_official_names_and_back(tiny: Build, changes: dict) -> None:
    model, waveforms = tiny(**changes), torch.randn(1, 8_000)
    again = BeatsEncoder.from_state_dict(model.official_state_dict(), model.config).eval()
    assert torch.equal(again(waveforms).frames, model(waveforms).frames)


def test_probabilities_need_classes(tiny: Build) -> None:
    with pytest.raises(ValueError, match="this BEATs has no classes"):
        tiny().probabilities(torch.randn(1, 8_000))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_front_end(tiny: Build, dtype: torch.dtype) -> None:
    model = tiny()
    waveforms, lengths = torch.randn(2, 6_000).clamp(-1, 1), torch.tensor([6_000, 4_000])
    expected, _ = model.features(waveforms, lengths)
    with torch.autocast("cpu", dtype):
        features, _ = model.features(waveforms, lengths)
    assert features.dtype == torch.float32
    assert torch.equal(features, expected)


@torch.no_grad()
def test_weights_in_half_precision(tiny: Build) -> None:
    """The front end stays float32 and its features fit the weights all the same."""
    out = tiny().to(torch.bfloat16)(torch.randn(2, 8_000))
    assert out.frames.dtype == torch.bfloat16
    assert out.frames.isfinite().all()


def test_the_body_compiles_as_one_graph(tiny: Build) -> None:
    model, features = tiny(), torch.randn(2, 40, 128)
    lengths = torch.tensor([40, 20])
    compiled = torch.compile(model.forward_features, backend="eager", fullgraph=True)
    expected = model.forward_features(features, lengths).frames
    torch.testing.assert_close(compiled(features, lengths).frames, expected)
