from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ssl_audio.audio import AudioError
from ssl_audio.models import HubertEncoder
from ssl_audio.probes.recordings import Recording, Windowing
from ssl_audio.probes.sources import EncoderLayers
from ssl_audio.probes.stream import Failure, Features, iter_features, pool

WINDOWS = Windowing(window_sec=3.2, context_sec=0.64)


def test_pool_equals_numpy():
    states = torch.randn(20, 3)
    frames, counts = torch.tensor([4, 5, 6, 7, 0, 19]), torch.tensor([4, 1, 1])
    pooled = pool(states, frames, counts, "mean_std").numpy()
    for row, index in zip(pooled, ([4, 5, 6, 7], [0], [19]), strict=True):
        picked = states[index].numpy()
        np.testing.assert_allclose(row[:3], picked.mean(0), atol=1e-6)
        np.testing.assert_allclose(row[3:], picked.std(0), atol=1e-6)
    assert pool(states, frames, counts, "mean").shape == (3, 3)


def recording(name, seconds, seed=0):
    samples = np.random.default_rng(seed).standard_normal(round(seconds * 16_000))
    samples = 0.1 * samples.astype(np.float32)

    def read(start_sec, duration_sec):
        start = round(start_sec * 16_000)
        stop = None if duration_sec is None else start + round(duration_sec * 16_000)
        return samples[start:stop]

    return Recording(name, seconds, read)


def whole(source, item):
    samples = torch.from_numpy(item.read(0.0, None))[None]
    layers, frames = source.layers(samples, torch.tensor([samples.shape[1]]))
    return {name: states[0, : int(frames)] for name, states in layers.items()}


@pytest.mark.parametrize("seconds", [0.5, 3.2, 4.0, 7.3, 12.8])
@pytest.mark.parametrize("pooling", ["none", "mean", "mean_std"])
def test_windows_change_nothing_for_an_encoder_without_context(tiny_encoder, seconds, pooling):
    source = EncoderLayers(tiny_encoder)
    item = recording("x", seconds)
    (found,) = iter_features(source, [item], pooling=pooling, windowing=WINDOWS)
    expected = whole(source, item)
    assert isinstance(found, Features)
    assert found.num_frames == len(expected["1"])
    for name, frames in expected.items():
        mean, std = frames.mean(0), frames.std(0, correction=0)
        wanted = {"none": frames, "mean": mean, "mean_std": torch.cat([mean, std])}[pooling]
        torch.testing.assert_close(found.layers[name], wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize("batch_sec", [0.1, 4.0, 100.0])
def test_every_recording_comes_once_whatever_the_batch(tiny_encoder, batch_sec):
    items = [recording(f"r{i}", s, i) for i, s in enumerate((0.4, 9.0, 1.3, 5.0, 0.4))]
    source = EncoderLayers(tiny_encoder, ["last"])
    found = list(iter_features(source, items, batch_sec=batch_sec, windowing=WINDOWS))
    assert sorted(features.index for features in found) == [0, 1, 2, 3, 4]
    for features in found:
        assert items[features.index].id == features.id
        mean = whole(source, items[features.index])["last"].mean(0)
        torch.testing.assert_close(features.layers["last"], mean, atol=2e-5, rtol=0)


@pytest.mark.parametrize("batch_sec", [1.0, 100.0])
def test_a_pause_longer_than_a_window_is_no_louder_for_it(batch_sec):
    """HuBERT's norms are taken over the recording, whatever windows it is cut into."""
    sizes = {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "conv_dim": [8] * 7,
    }
    torch.manual_seed(0)
    encoder = HubertEncoder(**sizes, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)
    samples = np.random.default_rng(0).standard_normal(160_000).astype(np.float32)
    samples[48_000:112_000] *= 1e-4

    def read(start_sec, duration_sec):
        start = round(start_sec * 16_000)
        return samples[start:][: None if duration_sec is None else round(duration_sec * 16_000)]

    items = [recording("short", 1.0), Recording("pause", 10.0, read), recording("long", 9.0)]
    source = EncoderLayers(encoder, ["0"])  # before attention, which sees its window only
    stream = iter_features(source, items, pooling="none", batch_sec=batch_sec, windowing=WINDOWS)
    for found in stream:
        expected = whole(source, items[found.index])["0"]
        torch.testing.assert_close(found.layers["0"], expected, atol=1e-4, rtol=0)


def test_what_cannot_be_used_is_one_line(tiny_encoder):
    def late_failure(start_sec, duration_sec):
        if start_sec > 0:
            raise AudioError("late: truncated")
        return np.zeros(51_200, dtype=np.float32)

    items = [
        recording("short", 0.01),
        Recording("late", 9.0, late_failure),
        Recording("nan", 1.0, lambda start, stop: np.full(16_000, np.nan, dtype=np.float32)),
        recording("good", 1.0),
    ]
    found = {x.id: x for x in iter_features(EncoderLayers(tiny_encoder), items, windowing=WINDOWS)}
    reasons = {name: x.reason for name, x in found.items() if isinstance(x, Failure)}
    assert reasons == {
        "short": "short: too short for a single frame",
        "late": "late: truncated",
        "nan": "nan: layer 0 holds NaN or infinite values",
    }
    assert isinstance(found["good"], Features)


def test_a_clock_without_whole_frames_cannot_be_cut(tiny_encoder):
    source = EncoderLayers(tiny_encoder)
    tiny_encoder.frame_rate = 16_000 / 441
    list(iter_features(source, [recording("x", 3.0)], windowing=WINDOWS))
    with pytest.raises(ValueError, match="no whole frames"):
        list(iter_features(source, [recording("x", 9.0)], windowing=WINDOWS))


def test_an_encoder_for_another_rate_is_refused(tiny_encoder):
    tiny_encoder.sample_rate = 44_100
    with pytest.raises(ValueError, match="wants audio at 44100 Hz"):
        EncoderLayers(tiny_encoder)


def test_autocast_reaches_the_encoder(tiny_encoder):
    source = EncoderLayers(tiny_encoder, ["2"], autocast=torch.bfloat16)
    layers, _ = source.layers(torch.randn(1, 3200), torch.tensor([3200]))
    assert layers["2"].dtype == torch.bfloat16
    assert source.key.endswith("bfloat16")
    (found,) = iter_features(source, [recording("x", 1.0)])
    assert found.layers["2"].dtype == torch.float32
    assert math.isfinite(float(found.layers["2"].sum()))
