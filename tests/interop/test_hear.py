"""The checks of hear-validator, and that the encoder's own numbers come out."""

from __future__ import annotations

import pytest
import torch

from ssl_audio import hub
from ssl_audio.interop import hear


@pytest.fixture(scope="module")
def model(padding_exact, tmp_path_factory):
    folder = hub.save(padding_exact, tmp_path_factory.mktemp("model") / padding_exact.kind)
    return hear.load_model(str(folder))


@pytest.mark.parametrize("seconds", [1.07, 1.98, 4.0])
def test_timestamps(model, seconds):
    audio = 2 * torch.rand(2, int(seconds * model.sample_rate)) - 1
    frames, times_ms = hear.get_timestamp_embeddings(audio, model.train())
    assert frames.dtype == torch.float32
    assert frames.shape == (2, times_ms.shape[1], model.timestamp_embedding_size)
    assert bool(torch.isfinite(frames).all())
    assert torch.equal(times_ms[0], times_ms[1])
    assert float(times_ms.min()) >= 0
    assert float(times_ms.max()) <= 1000 * seconds
    hops = times_ms.diff()
    assert float((hops - 1000 / model.source.frame_rate).abs().max()) < 1e-2
    # Centres: what is left uncovered is shared by the two ends, up to one hop.
    first, last = float(times_ms[0, 0]), 1000 * seconds - float(times_ms[0, -1])
    assert abs(first - last) <= float(hops.max()) + 1


def test_scenes(model, padding_exact):
    audio = 2 * torch.rand(4, int(2.74 * model.sample_rate)) - 1
    scenes = hear.get_scene_embeddings(audio, model)
    assert scenes.shape == (4, model.scene_embedding_size)
    assert scenes.dtype == torch.float32
    frames = padding_exact(audio).frames
    rows = frames.unflatten(1, (-1, model.source.merged)).flatten(2)
    torch.testing.assert_close(scenes, rows.mean(1), atol=1e-4, rtol=1e-4)


def test_another_layer(model, padding_exact, tmp_path):
    folder = hub.save(padding_exact, tmp_path / "model")
    other = hear.load_model(str(folder), layer="1")
    audio = 0.1 * torch.randn(1, 16_000)
    assert hear.get_scene_embeddings(audio, other).shape == (1, other.scene_embedding_size)
    with pytest.raises(ValueError, match="no layer '9'; layers: 0, 1"):
        hear.load_model(str(folder), layer="9")


def test_no_model_is_one_line():
    with pytest.raises(ValueError, match="no model; give the folder of an exported encoder"):
        hear.load_model()
