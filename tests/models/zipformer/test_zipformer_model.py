"""The encoder as its users see it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import torch

from ssl_audio.models import Zipformer

Build = Callable[..., Zipformer]


@pytest.mark.parametrize(
    ("dim", "layers", "millions", "num_tensors"),
    [
        (512, "1,2,3,3,1,1,1", 93.289, 554),
        (1024, "1,2,2,3,1,1,1", 326.951, 510),
        (1280, "1,2,3,4,1,1,1", 596.973, 598),
    ],
)
def test_released_sizes(dim: int, layers: str, millions: float, num_tensors: int) -> None:
    with torch.device("meta"):
        model = Zipformer(
            num_encoder_layers=layers,
            encoder_dim=dim,
            feedforward_dim=3 * dim,
            encoder_unmasked_dim=dim // 2,
        )
    tensors = model.state_dict()
    assert len(tensors) == num_tensors
    assert round(sum(x.numel() for x in tensors.values()) / 1e6, 3) == millions


@pytest.mark.parametrize("factor", [1, 2])
def test_one_clock_from_samples_to_frames(tiny: Build, factor: int) -> None:
    model = tiny(output_downsampling_factor=factor)
    assert model.frame_rate == 50 / factor
    lengths = torch.tensor([16_000, 1_600, 9_999, 500])
    with torch.no_grad():
        out = model(torch.randn(4, 16_000), lengths)
    assert out.lengths.tolist() == [model.num_frames(n) for n in lengths.tolist()]
    assert torch.equal(out.lengths, model.num_frames(lengths))
    assert out.frames.shape == (4, model.num_frames(16_000), model.embed_dim)
    assert out.lengths[-1] == 0
    assert len(out.hidden_states) == model.num_layers + 1


@torch.no_grad()
def test_a_clip_alone_equals_the_clip_in_a_padded_batch(tiny: Build) -> None:
    model = tiny()
    waveforms = torch.randn(3, 12_345)
    lengths = torch.tensor([12_345, 7_000, 2_345])
    batch = model(waveforms, lengths)
    for index, length in enumerate(lengths.tolist()):
        alone = model(waveforms[index : index + 1, :length])
        states = zip(
            (batch.frames, *batch.hidden_states), (alone.frames, *alone.hidden_states), strict=True
        )
        for padded, expected in states:
            actual = padded[index, : expected.shape[1]]
            torch.testing.assert_close(actual, expected[0], atol=1e-4, rtol=0)


@torch.no_grad()
def test_exact_mode_ignores_what_padding_holds(tiny: Build) -> None:
    model = tiny()
    features, lengths = torch.randn(2, 60, 20), torch.tensor([60, 33])
    expected = model.forward_features(features, lengths).frames[1, :13]
    features[1, 33:] = math.nan
    actual = model.forward_features(features, lengths).frames[1, :13]
    torch.testing.assert_close(actual, expected)


@torch.no_grad()
def test_without_padding_both_modes_are_one(tiny: Build) -> None:
    features = torch.randn(2, 61, 20)
    exact = tiny().forward_features(features)
    reference = tiny(padding="reference").forward_features(features, torch.tensor([61, 61]))
    for actual, expected in zip(exact.hidden_states, reference.hidden_states, strict=True):
        torch.testing.assert_close(actual, expected)


@torch.no_grad()
def test_config_rebuilds_the_model(tiny: Build) -> None:
    model = tiny(output_downsampling_factor=2)
    config = json.loads(json.dumps(model.config))
    twin = Zipformer.from_config(config).eval()
    twin.load_state_dict(model.state_dict())
    features = torch.randn(1, 40, 20)
    expected = model.forward_features(features).frames
    assert torch.equal(twin.forward_features(features).frames, expected)


@torch.no_grad()
def test_bfloat16_autocast_stays_close(tiny: Build) -> None:
    model = tiny()
    features = torch.randn(1, 80, 20)
    expected = model.forward_features(features).frames
    with torch.autocast("cpu", torch.bfloat16):
        actual = model.forward_features(features).frames.float()
    similarity = torch.cosine_similarity(actual, expected, dim=-1)
    assert similarity.min() > 0.99


def test_clips_too_short_for_a_frame(tiny: Build) -> None:
    with pytest.raises(ValueError, match="too short for Zipformer"):
        tiny()(torch.randn(1, 1_000))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_dims": 16}, "unknown Zipformer config keys"),
        ({"encoder_dim": "16,24"}, "encoder_dim='16,24': has 2 entries, not 3"),
        ({"num_heads": "two"}, "num_heads='two': must be positive integers"),
        ({"causal": True}, "causal=True: must be False"),
        ({"padding": "zero"}, "padding='zero': must be one of"),
        ({"cnn_module_kernel": 4}, "must be odd"),
        ({"encoder_unmasked_dim": 32}, "at most encoder_dim"),
    ],
)
def test_config_errors_name_the_key(tiny: Build, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**change)


def test_official_config_strings_and_keys(tiny: Build) -> None:
    official = {
        "downsampling_factor": "1,2,4",
        "encoder_dim": "16,24,16",
        "causal": False,
        "chunk_size": 8,
        "left_context_frames": 128,
        "model_type": "spear",
    }
    assert tiny(**official).config == tiny().config
