from __future__ import annotations

import copy

import pytest
import torch

from ssl_audio.interop.frozen import FrozenEncoder


def waves(*lengths: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(length, generator=generator) for length in lengths]


def test_frames_are_those_of_the_encoder_alone(padding_exact):
    model = FrozenEncoder(padding_exact, None, "apart")
    clips = waves(16_000, 9_000, 12_345)
    for clip, layers in zip(clips, model.layers(clips), strict=True):
        out = padding_exact(clip[None])
        frames = out.hidden_states[1][0, : int(out.lengths[0])]
        torch.testing.assert_close(layers["1"], frames, atol=1e-4, rtol=1e-4)
        assert model.widths["1"] == frames.shape[-1]


def test_short_clips_have_a_frame(padding_exact):
    model = FrozenEncoder(padding_exact, ["last"])
    rows = model.source.merged
    assert int(padding_exact.num_frames(model.shortest)) >= rows
    assert int(padding_exact.num_frames(model.shortest - 1)) < rows
    for layers in model.layers(waves(1, 300, model.shortest)):
        assert len(layers["last"]) == 1


def test_long_clips_go_through_in_windows(padding_exact, monkeypatch):
    longest = 0
    forward = type(padding_exact).forward

    def watched(self, waveforms, lengths=None):
        nonlocal longest
        longest = max(longest, waveforms.shape[1])
        return forward(self, waveforms, lengths)

    monkeypatch.setattr(type(padding_exact), "forward", watched)
    model = FrozenEncoder(padding_exact, ["last"])
    (layers,) = model.layers([0.1 * torch.randn(90 * 16_000)])
    assert longest <= 31 * 16_000
    expected = 90 * model.source.frame_rate
    assert abs(len(layers["last"]) - expected) <= 0.1 * model.source.frame_rate + 1


def test_training_mode_changes_nothing(padding_exact):
    model = FrozenEncoder(copy.deepcopy(padding_exact), ["last"])
    (clip,) = waves(8_000)
    (first,) = model.layers([clip])
    (second,) = model.train().layers([clip])
    assert model.encoder.training
    assert not first["last"].requires_grad
    assert torch.equal(first["last"], second["last"])
    weight = torch.nn.Linear(first["last"].shape[1], 1)
    weight(first["last"]).sum().backward()  # what comes out can be learned from
    assert weight.weight.grad is not None


def test_nan_in_audio_is_one_line(padding_exact):
    clip = waves(8_000)[0]
    clip[100] = float("nan")
    with pytest.raises(ValueError, match=r"clip 0: .*NaN"):
        FrozenEncoder(padding_exact, ["last"]).layers([clip])
