"""Spectral teachers: clocks, what they measure, padding."""

from __future__ import annotations

import math

import pytest
import torch

import ssl_audio
from ssl_audio.hub import build, spec
from ssl_audio.models.spectral import LogSpectrumEncoder, MfccEncoder

TEACHERS = [MfccEncoder(), LogSpectrumEncoder(), LogSpectrumEncoder(num_cqt_bins=0)]
each_teacher = pytest.mark.parametrize("teacher", TEACHERS, ids=["mfcc", "mel+cqt", "mel"])


def tone(frequency_hz: float, seconds: float = 1.0) -> torch.Tensor:
    return 0.3 * torch.sin(
        2 * math.pi * frequency_hz * torch.arange(int(16_000 * seconds)) / 16_000
    )


@each_teacher
@pytest.mark.parametrize("num_samples", [0, 79, 80, 240, 560, 561, 3119, 3120, 16_000, 16_241])
def test_one_clock(teacher, num_samples):
    out = teacher(torch.randn(2, num_samples))
    count = teacher.num_frames(num_samples)
    assert out.frames.shape == (2, count, teacher.embed_dim)
    assert out.lengths.tolist() == [count] * 2
    assert teacher.num_frames(torch.tensor([num_samples])).item() == count
    assert abs(count - num_samples / 16_000 * teacher.frame_rate) <= 1
    assert len(out.hidden_states) == teacher.num_layers + 1


@each_teacher
def test_a_clip_in_a_padded_batch_gives_what_it_gives_alone(teacher, clips, padded):
    waveforms, lengths = padded
    dirty = waveforms.clone()
    for row, length in enumerate(lengths):
        dirty[row, length:] = 0.7
    batch, polluted = teacher(waveforms, lengths), teacher(dirty, lengths)
    assert torch.equal(batch.frames, polluted.frames)
    for row, clip in enumerate(clips):
        alone = teacher(clip[None]).frames[0]
        assert batch.lengths[row] == len(alone)
        assert (batch.frames[row, : len(alone)] - alone).abs().max() < 1e-4
        assert not batch.frames[row, len(alone) :].any()


@each_teacher
def test_level_does_not_matter_and_sound_does(teacher):
    torch.manual_seed(0)
    clip = torch.randn(1, 16_000) * torch.linspace(0.02, 0.3, 16_000)
    quiet = teacher(0.25 * clip).frames
    torch.testing.assert_close(quiet, teacher(clip).frames, atol=2e-3, rtol=1e-3)
    assert (teacher(clip.flip(1)).frames - quiet).abs().mean() > 0.1


@pytest.mark.parametrize("teacher_class", [MfccEncoder, LogSpectrumEncoder])
def test_a_loud_end_changes_the_beginning_only_of_relative_teachers(teacher_class):
    torch.manual_seed(0)
    clip = 0.05 * torch.randn(1, 32_000)
    loud_end = clip.clone()
    loud_end[:, 24_000:] *= 10
    for relative in (True, False):
        teacher = teacher_class(relative=relative)
        change = (teacher(loud_end).frames - teacher(clip).frames)[:, :5].abs().max()
        assert (change > 1.0) == relative
        assert build(spec(teacher)).relative == relative


@each_teacher
def test_silence_is_finite(teacher):
    out = teacher(torch.zeros(2, 8000), torch.tensor([8000, 0]))
    assert out.frames.isfinite().all()


def test_semitones_fall_into_neighbouring_constant_q_bins():
    teacher = LogSpectrumEncoder(num_mel_bins=8, context=(0,))
    peaks = [
        teacher(tone(65.406 * 2 ** (step / 12))[None]).frames[0, 12, 8:].argmax().item()
        for step in (24, 25, 36)
    ]
    assert peaks == [24, 25, 36]


def test_cepstra_are_the_cosine_transform_of_log_mel():
    """Against scipy's orthonormal DCT-II and Kaldi's lifter, on one clip's middle frames."""
    from scipy.fft import dct

    teacher = MfccEncoder(num_mel_bins=40, num_cepstra=13, context=(0,))
    clip = tone(300.0) + 0.01 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    mel, lengths = teacher.features(clip[None], torch.tensor([16_000]))
    relative = (mel[0] - mel.max()).clamp_min(-16.0).numpy()
    lifter = torch.tensor([1 + 11 * math.sin(math.pi * n / 22) for n in range(13)])
    expected = torch.from_numpy(dct(relative, norm="ortho")[:, :13]) * lifter
    expected = (expected[::2] + expected[1::2]) / 2
    frames = teacher.forward_features(mel, lengths).frames[0]
    torch.testing.assert_close(frames[:, :13], expected.float(), atol=1e-3, rtol=1e-3)


def test_deltas_are_slopes():
    """Loudness rising by a constant number of decibels: only the zeroth cepstrum has a slope."""
    teacher = MfccEncoder(num_mel_bins=40, num_cepstra=13, context=(0,))
    slope = 0.02  # nats of power for each 10 ms frame
    mel = slope * torch.arange(100.0)[None, :, None].expand(1, 100, 40)
    frames = teacher.forward_features(mel).frames[0, 10:-10]
    deltas, accelerations = frames[:, 13:26], frames[:, 26:]
    torch.testing.assert_close(
        deltas[:, 0], torch.full_like(deltas[:, 0], slope * math.sqrt(40)), atol=1e-4, rtol=1e-3
    )
    assert deltas[:, 1:].abs().max() < 1e-4
    assert accelerations.abs().max() < 1e-4


def test_context_places_neighbours_side_by_side():
    alone, wide = MfccEncoder(context=(0,)), MfccEncoder(context=(-2, 0, 2))
    clip = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    frames, stacked = alone(clip).frames[0], wide(clip).frames[0]
    past, present, future = stacked.split(alone.embed_dim, dim=1)
    assert torch.equal(present, frames)
    assert torch.equal(past[2:], frames[:-2])
    assert torch.equal(past[:2], frames[:1].expand(2, -1))
    assert torch.equal(future[:-2], frames[2:])
    assert torch.equal(future[-2:], frames[-1:].expand(2, -1))


@each_teacher
def test_float32_under_autocast(teacher, padded):
    expected = teacher(*padded).frames
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(teacher(*padded).frames, expected)


@each_teacher
def test_export_round_trip(teacher, tmp_path, padded):
    restored = ssl_audio.load_encoder(ssl_audio.save(teacher, tmp_path))
    assert torch.equal(restored(*padded).frames, teacher(*padded).frames)
    assert spec(build(spec(teacher))) == spec(teacher)


def test_impossible_sizes():
    with pytest.raises(ValueError, match="num_cepstra is 50; use 1 to 40"):
        MfccEncoder(num_mel_bins=40, num_cepstra=50)
