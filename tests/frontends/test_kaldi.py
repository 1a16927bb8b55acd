"""KaldiFbank against torchaudio, and what a batch, a device and a precision must not change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssl_audio.frontends import KaldiFbank
from ssl_audio.frontends import kaldi as kaldi_module

CONVENTIONS = [
    pytest.param(snip, high, scale, id=f"snip={snip}-high={high:g}-scale={scale:g}")
    for snip in (False, True)
    for high in (-400.0, 0.0)
    for scale in (1.0, 2.0**15)
]


def sounds(num_samples: int) -> Tensor:
    """Clips that stress different ends of the arithmetic."""
    generator = torch.Generator().manual_seed(3)
    time = torch.arange(num_samples) / 16_000
    noise = torch.randn(num_samples, generator=generator)
    tone = torch.sin(2 * torch.pi * 440 * time)
    clips = [
        0.1 * noise,
        0.5 * tone,  # far from 440 Hz only rounding is left
        1e-4 * noise + 0.3,  # an offset far above the signal
        torch.zeros(num_samples),
        (0.3 * tone + 0.01 * noise) * (time % 0.5 > 0.25),
    ]
    return torch.stack([clip.float() for clip in clips])


def torchaudio_fbank(clip: Tensor, fbank: KaldiFbank, high_freq_hz: float) -> Tensor:
    from torchaudio.compliance.kaldi import fbank as reference

    return reference(
        clip[None],
        num_mel_bins=fbank.num_features,
        dither=0.0,
        snip_edges=fbank.snip_edges,
        high_freq=high_freq_hz,
    )


@pytest.mark.parametrize(("snip_edges", "high_freq_hz", "scale"), CONVENTIONS)
def test_equals_torchaudio(snip_edges: bool, high_freq_hz: float, scale: float) -> None:
    fbank = KaldiFbank(high_freq_hz=high_freq_hz, snip_edges=snip_edges)
    waveforms = sounds(20_011) * scale
    for clip, features in zip(waveforms, fbank(waveforms), strict=True):
        expected = torchaudio_fbank(clip, fbank, high_freq_hz)
        torch.testing.assert_close(features, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_mel_bins", [4, 23, 40, 80])
def test_other_numbers_of_mel_bins_equal_torchaudio(num_mel_bins: int) -> None:
    fbank = KaldiFbank(num_mel_bins)
    waveforms = sounds(4_000)
    expected = torchaudio_fbank(waveforms[0], fbank, -400.0)
    torch.testing.assert_close(fbank(waveforms)[0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("snip_edges", [False, True])
def test_padding_does_not_change_a_clip(snip_edges: bool) -> None:
    fbank = KaldiFbank(snip_edges=snip_edges)
    lengths = torch.tensor([16_000, 15_999, 8_080, 400, 100, 0])
    waveforms = torch.randn(len(lengths), 16_000)  # padding is garbage, not zeros
    features = fbank(waveforms, lengths)
    assert features.shape == (len(lengths), fbank.num_frames(16_000), 128)
    for clip, num_samples, padded in zip(waveforms, lengths.tolist(), features, strict=True):
        num_frames = fbank.num_frames(num_samples)
        alone = fbank(clip[None, :num_samples])[0]
        assert len(alone) == num_frames
        torch.testing.assert_close(padded[:num_frames], alone, atol=1e-4, rtol=0)
        assert (padded[num_frames:] == fbank.pad_value).all()


@pytest.mark.parametrize("chunk_frames", [1, 7, 64, 100_000])
def test_chunking_does_not_change_the_result(
    chunk_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fbank, waveforms = KaldiFbank(), sounds(9_000)
    expected = fbank._log_mel(fbank._frames(waveforms, None))
    monkeypatch.setattr(kaldi_module, "CPU_CHUNK_FRAMES", chunk_frames)
    torch.testing.assert_close(fbank(waveforms), expected, atol=1e-4, rtol=0)


def test_clips_shorter_than_the_context_are_mirrored_repeatedly() -> None:
    ramp = torch.arange(1.0, 4.0)[None]
    edges, positions = kaldi_module.mirrored_edges(ramp, None)
    extended = kaldi_module.extend(ramp, edges, positions)[0].tolist()
    assert extended[114:128] == [1, 2, 3, 3, 2, 1, 1, 2, 3, 3, 2, 1, 1, 2]
    assert torch.isfinite(KaldiFbank()(torch.randn(2, 90))).all()


def test_number_of_frames() -> None:
    lengths = torch.tensor([0, 79, 80, 239, 240, 400, 160_000])
    assert KaldiFbank().num_frames(lengths).tolist() == [0, 0, 1, 1, 2, 3, 1_000]
    assert KaldiFbank(snip_edges=True).num_frames(lengths).tolist() == [0, 0, 0, 0, 0, 1, 998]
    assert KaldiFbank().num_frames(240) == 2
    assert KaldiFbank(snip_edges=True).num_frames(3) == 0


@pytest.mark.parametrize("shape", [(0, 1_000), (2, 0), (2, 79)])
def test_nothing_to_compute(shape: tuple[int, int]) -> None:
    fbank = KaldiFbank()
    assert fbank(torch.zeros(shape)).shape == (shape[0], fbank.num_frames(shape[1]), 128)


def test_precision_is_float32_whatever_surrounds_it() -> None:
    waveforms = sounds(4_000)
    expected = KaldiFbank()(waveforms)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(KaldiFbank()(waveforms), expected)
    assert torch.equal(KaldiFbank().to(torch.bfloat16)(waveforms.double()), expected)


def test_constants_survive_a_meta_device_and_stay_out_of_the_state_dict() -> None:
    with torch.device("meta"):
        fbank = KaldiFbank()
    waveforms = sounds(4_000)
    assert torch.equal(fbank.to_empty(device="cpu")(waveforms), KaldiFbank()(waveforms))
    assert not fbank.state_dict()


def test_gradients_reach_the_waveform() -> None:
    waveforms = (0.1 * torch.randn(2, 1_600)).requires_grad_()
    features = KaldiFbank()(waveforms, torch.tensor([1_600, 900]))
    features.sum().backward()
    assert waveforms.grad is not None
    assert torch.isfinite(waveforms.grad).all()
    assert waveforms.grad[1, :900].abs().sum() > 0
    assert (waveforms.grad[1, 900:] == 0).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("snip_edges", [False, True])
def test_gpu_equals_cpu(snip_edges: bool) -> None:
    fbank, waveforms = KaldiFbank(snip_edges=snip_edges), sounds(20_011)[[0, 3, 4]]
    lengths = torch.tensor([20_011, 9_000, 400])
    expected = fbank(waveforms, lengths)
    features = fbank.cuda()(waveforms.cuda(), lengths.cuda()).cpu()
    torch.testing.assert_close(features, expected, atol=1e-3, rtol=0)


def test_refuses_bad_shapes_and_bands() -> None:
    with pytest.raises(ValueError, match="pass"):
        KaldiFbank()(torch.zeros(100))
    with pytest.raises(ValueError, match="pass"):
        KaldiFbank()(torch.zeros(2, 1_000), torch.tensor([3]))
    with pytest.raises(ValueError, match="low_freq_hz"):
        KaldiFbank(low_freq_hz=8_000.0)
    with pytest.raises(ValueError, match="mel bins"):
        KaldiFbank(num_mel_bins=0)
