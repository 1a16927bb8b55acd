from __future__ import annotations

import pytest
import torch

from ssl_audio.models.beats.model import BeatsEncoder
from ssl_audio.probes.sources import EncoderLayers, LogMelFrames, untrained_twin


def test_layers_are_named_and_selected(tiny_encoder):
    waveforms, lengths = torch.randn(2, 1600), torch.tensor([1600, 960])
    layers, frames = EncoderLayers(tiny_encoder).layers(waveforms, lengths)
    assert list(layers) == ["0", "1", "2", "output"]
    assert frames.tolist() == [5, 3]
    assert list(EncoderLayers(tiny_encoder, ["2"]).layers(waveforms, lengths)[0]) == ["2"]
    with pytest.raises(ValueError, match="no layer '7'; layers: 0, 1, 2, output"):
        EncoderLayers(tiny_encoder, ["7"]).layers(waveforms, lengths)


def test_the_key_follows_weights_and_layers(tiny_encoder):
    key = EncoderLayers(tiny_encoder).key
    assert EncoderLayers(tiny_encoder, ["1"]).key != key
    with torch.no_grad():
        tiny_encoder.first.bias[0] += 1
    assert EncoderLayers(tiny_encoder).key != key


def test_untrained_twin_depends_on_its_seed_only(tiny_encoder):
    state = torch.get_rng_state()
    first = untrained_twin(tiny_encoder, seed=3)
    torch.rand(5)
    second, other = untrained_twin(tiny_encoder, seed=3), untrained_twin(tiny_encoder, seed=4)
    torch.testing.assert_close(first.state_dict(), second.state_dict())
    assert not torch.equal(first.first.weight, other.first.weight)
    assert not torch.equal(first.first.weight, tiny_encoder.first.weight)
    torch.set_rng_state(state)
    untrained_twin(tiny_encoder)
    assert torch.equal(torch.get_rng_state(), state)


def test_log_mel_frames_of_a_clip_alone_and_in_a_batch():
    torch.manual_seed(0)
    source = LogMelFrames()
    waveforms, lengths = torch.randn(2, 8000) * 0.1, torch.tensor([8000, 4000])
    layers, frames = source.layers(waveforms, lengths)
    assert frames.tolist() == [50, 25]
    assert source.frame_rate == 100.0
    alone, _ = source.layers(waveforms[1:, :4000], torch.tensor([4000]))
    torch.testing.assert_close(layers["log-mel"][1, :25], alone["log-mel"][0], atol=1e-4, rtol=0)


def test_frames_lie_in_the_middle_of_what_a_convolution_leaves(tiny_encoder, monkeypatch):
    assert EncoderLayers(tiny_encoder).frame_offset_sec == 0.0
    # 400 samples every 320, as in wav2vec 2.0: the first frame is centred at sample 200.
    monkeypatch.setattr(tiny_encoder, "num_frames", lambda n: (n - 400) // 320 + 1)
    assert EncoderLayers(tiny_encoder).frame_offset_sec == pytest.approx(200 / 16_000 - 0.01)


@pytest.fixture
def patch_encoder():
    torch.manual_seed(0)
    return BeatsEncoder(
        encoder_layers=1,
        encoder_embed_dim=16,
        encoder_ffn_embed_dim=16,
        encoder_attention_heads=2,
        embed_dim=16,
        conv_pos_groups=2,
    ).eval()


def test_patches_of_one_stretch_of_time_are_one_frame(patch_encoder):
    waveforms, lengths = 0.1 * torch.randn(2, 16_000), torch.tensor([16_000, 9_000])
    apart = EncoderLayers(patch_encoder, patches="apart")
    patches, num_patches = apart.layers(waveforms, lengths)
    mean = EncoderLayers(patch_encoder, patches="mean")
    joined = EncoderLayers(patch_encoder)
    assert len({source.key for source in (apart, mean, joined)}) == 3
    rows, num_rows = mean.layers(waveforms, lengths)
    assert (num_patches == 8 * num_rows).all()
    torch.testing.assert_close(rows["1"], patch_encoder.time_rows(patches["1"]).mean(2))
    rows, _ = joined.layers(waveforms, lengths)
    assert rows["1"].shape == (2, 6, 8 * 16)
    assert torch.equal(rows["1"][1, 2, 48:64], patches["1"][1, 2 * 8 + 3])  # time 2, band 3
    for source in (mean, joined):
        assert source.frame_rate == 6.25
        assert source.frame_offset_sec + 0.5 / 6.25 == pytest.approx(0.0875)
    with pytest.raises(ValueError, match="patches=max: choose one of concat, mean, apart"):
        EncoderLayers(patch_encoder, patches="max")
