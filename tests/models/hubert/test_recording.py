"""Norms of a whole recording for its windows."""

from __future__ import annotations

import pytest
import torch


def speech_and_pause():
    """3 s with an offset, most of it nearly silent."""
    x = torch.randn(48_000, generator=torch.Generator().manual_seed(0))
    return torch.where(torch.arange(48_000) < 16_000, 0.1 * x, 1e-4 * x) + 0.02


@torch.no_grad()
@pytest.mark.parametrize("config", [{}, {"normalize": False}, {"padding": "reference"}])
def test_pieces_tell_the_norms_of_the_whole(tiny, config):
    encoder, recording = tiny(**config), speech_and_pause()
    expected = encoder(recording[None]).frames
    norms = encoder.recording_norms(recording.split(10_243))
    with encoder.normalizing(norms):
        torch.testing.assert_close(encoder(recording[None]).frames, expected, atol=1e-4, rtol=0)
        pause = recording[None, 20_480:30_720]
        frames, _ = encoder.convolve(*encoder.features(pause, torch.tensor([10_240])))
    whole, _ = encoder.convolve(*encoder.features(recording[None], torch.tensor([48_000])))
    torch.testing.assert_close(frames, whole[:, 64 : 64 + frames.shape[1]], atol=1e-4, rtol=0)
    alone, _ = encoder.convolve(*encoder.features(pause, torch.tensor([10_240])))
    assert (frames - alone).abs().max() > 0.01


@torch.no_grad()
def test_padding_of_a_window_changes_nothing(tiny):
    encoder, recording = tiny(), speech_and_pause()
    with encoder.normalizing(encoder.recording_norms([recording])):
        padded = torch.stack([recording, 9 * torch.ones(48_000)])
        padded[0, 20_000:] = 7
        batch = encoder(padded, torch.tensor([20_000, 48_000]))
        alone = encoder(recording[None, :20_000])
    count = int(alone.lengths)
    assert batch.lengths[0] == count
    torch.testing.assert_close(batch.frames[0, :count], alone.frames[0], atol=1e-4, rtol=0)


def test_silence_has_norms_and_nothing_has_none(tiny):
    encoder = tiny()
    with torch.no_grad(), encoder.normalizing(encoder.recording_norms([torch.zeros(4000)])):
        assert encoder(torch.zeros(1, 4000)).frames.isfinite().all()
    assert encoder.recording_norms([torch.zeros(9)]) is None
    assert encoder.feature_extractor.norms is None
