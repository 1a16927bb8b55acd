from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_audio import audio
from ssl_audio.probes import embeddings
from ssl_audio.probes.superb.means import layer_means
from ssl_audio.probes.superb.task import Settings, Utterance


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    rng = np.random.default_rng(0)
    found = []
    for number in range(5):
        path = tmp_path / f"{number}.wav"
        samples = 0.1 * rng.standard_normal(6_000 + 2_000 * number)
        audio.write(path, samples.astype(np.float32), 16_000)
        found.append(Utterance(f"a/{number}", path))
    return found


def test_means_of_frames_do_not_depend_on_the_batch_size(utterances, layers):
    found = [
        layer_means(layers, utterances, Settings(batch_sec=seconds))[0]
        for seconds in (0.1, 2.0, 60.0)
    ]
    for utterance in utterances:
        samples = torch.from_numpy(audio.read(utterance.path))[None]
        ((_, stacked, frames),) = layers.stacked(samples, torch.tensor([samples.shape[1]]))
        assert frames.item() == stacked.shape[2]
        for means_of in found:
            wanted = stacked[:, 0].mean(1)
            torch.testing.assert_close(means_of[utterance.id], wanted, atol=1e-4, rtol=1e-5)


def test_a_killed_extraction_goes_on_and_a_damaged_shard_is_made_anew(
    utterances, layers, tmp_path, monkeypatch
):
    monkeypatch.setattr(embeddings, "SHARD", 2)
    utterances[1].path.write_text("broken")
    settings = Settings(cache_dir=tmp_path / "cache")
    layer_means(layers, utterances[:4], settings)  # as far as a killed run came
    shards = sorted((tmp_path / "cache").glob("*.safetensors"), key=lambda p: p.stat().st_mtime_ns)
    assert len(shards) == 2
    before = shards[0].stat().st_mtime_ns
    shards[1].write_bytes(shards[1].read_bytes()[:50])
    found, failures = layer_means(layers, utterances, settings)
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3
    assert shards[0].stat().st_mtime_ns == before
    assert set(found) == {f"a/{i}" for i in (0, 2, 3, 4)}
    assert len(failures) == 1
    assert "1.wav" in failures[0]
    fresh, _ = layer_means(layers, utterances, Settings())
    for name, value in fresh.items():
        torch.testing.assert_close(found[name], value)


def test_long_clips_are_cut_at_random_once(utterances, layers, tmp_path):
    cut = [Utterance(u.id, u.path, max_sec=0.3) for u in utterances]
    first, _ = layer_means(layers, cut, Settings(seed=1))
    again, _ = layer_means(layers, cut, Settings(seed=1, batch_sec=0.1))
    other, _ = layer_means(layers, cut, Settings(seed=2))
    for name in first:
        torch.testing.assert_close(first[name], again[name], atol=1e-4, rtol=1e-5)
        assert not torch.allclose(first[name], other[name], atol=1e-3)


def test_a_stretch_and_the_gain(utterances, layers):
    stretch = Utterance("b", utterances[4].path, start_sec=0.25, duration_sec=0.5)
    found, _ = layer_means(layers, [stretch], Settings(), gain_db=-6.0)
    samples = 10 ** (-6 / 20) * audio.read(stretch.path, 0.25, 0.5)
    waveform = torch.from_numpy(samples.astype(np.float32))[None]
    ((_, stacked, _),) = layers.stacked(waveform, torch.tensor([8_000]))
    torch.testing.assert_close(found["b"], stacked[:, 0].mean(1), atol=1e-4, rtol=1e-5)
