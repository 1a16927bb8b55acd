"""The nnAudio front ends: pitch, clock, and independence of padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_audio.frontends import CqtSpectrogram, FrontEnd, MelSpectrogram

FRONT_ENDS = [
    pytest.param(CqtSpectrogram, id="cqt"),
    pytest.param(MelSpectrogram, id="mel"),
]


def tone(frequency_hz: float, num_samples: int = 16_000) -> torch.Tensor:
    time = torch.arange(num_samples, dtype=torch.float64) / 16_000
    return 0.5 * torch.sin(2 * np.pi * frequency_hz * time).float()[None]


@pytest.mark.parametrize("semitone", [24, 45, 60, 77])
def test_cqt_bins_are_semitones(semitone: int) -> None:
    cqt = CqtSpectrogram()
    features = cqt(tone(32.703 * 2 ** (semitone / 12)))
    assert features.shape == (1, 26, 84)
    assert (features[0, 8:18].argmax(-1) == semitone).all()


def test_mel_follows_energy() -> None:
    mel, clip = MelSpectrogram(num_mel_bins=64, hop_samples=320), tone(1_000.0)
    loud, quiet = mel(clip)[0, 5:-5], mel(0.1 * clip)[0, 5:-5]
    peak = loud.argmax(-1)
    assert (peak == peak[0]).all()
    drop = (loud - quiet).gather(1, peak[:, None])
    torch.testing.assert_close(drop, torch.full_like(drop, np.log(100.0)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", FRONT_ENDS)
def test_padding_does_not_change_a_clip(kind: type[FrontEnd]) -> None:
    front_end = kind()
    lengths = torch.tensor([16_000, 9_001, 320, 0])
    waveforms = 0.1 * torch.randn(len(lengths), 16_000)
    features = front_end(waveforms, lengths)
    assert features.shape == (4, front_end.num_frames(16_000), front_end.num_features)
    for clip, num_samples, padded in zip(waveforms, lengths.tolist(), features, strict=True):
        num_frames = front_end.num_frames(num_samples)
        alone = front_end(clip[None, :num_samples])[0]
        assert len(alone) == num_frames
        torch.testing.assert_close(padded[:num_frames], alone, atol=1e-4, rtol=0)
        assert (padded[num_frames:] == front_end.pad_value).all()


@pytest.mark.parametrize("kind", FRONT_ENDS)
def test_clock(kind: type[FrontEnd]) -> None:
    front_end = kind(hop_samples=400)
    assert front_end.frame_rate == 40.0
    lengths = torch.tensor([0, 1, 399, 400, 16_000])
    assert front_end.num_frames(lengths).tolist() == [0, 1, 1, 2, 41]
    assert [front_end.num_frames(n) for n in lengths.tolist()] == [0, 1, 1, 2, 41]


@pytest.mark.parametrize("kind", FRONT_ENDS)
def test_kernels_are_not_saved_and_stay_float32(kind: type[FrontEnd]) -> None:
    clip = tone(440.0, 4_000)
    expected = kind()(clip)
    assert not kind().state_dict()
    with torch.device("meta"):
        front_end = kind()
    assert torch.equal(front_end.half()(clip), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(front_end(clip), expected)


@pytest.mark.parametrize("kind", FRONT_ENDS)
def test_gradients_of_silence_are_finite(kind: type[FrontEnd]) -> None:
    waveforms = torch.zeros(1, 4_000, requires_grad=True)
    kind()(waveforms).sum().backward()
    assert waveforms.grad is not None
    assert torch.isfinite(waveforms.grad).all()


def test_refuses_bands_beyond_nyquist() -> None:
    with pytest.raises(ValueError, match="use fewer"):
        CqtSpectrogram(num_bins=120)
    with pytest.raises(ValueError, match="high_freq_hz"):
        MelSpectrogram(high_freq_hz=9_000.0)
