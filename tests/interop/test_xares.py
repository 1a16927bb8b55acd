from __future__ import annotations

import pytest
import torch

from ssl_audio import hub
from ssl_audio.interop import xares


def test_the_checks_of_xares(padding_exact, tmp_path, monkeypatch):
    """Its ``check_audio_encoder`` feeds (2, 50000)."""
    monkeypatch.setenv(xares.VARIABLE, str(hub.save(padding_exact, tmp_path / "model")))
    (name,) = (name for name in dir(xares) if name.endswith("Encoder"))
    encoder = getattr(xares, name)()
    assert isinstance(encoder, torch.nn.Module)
    assert encoder.sampling_rate == 16_000
    frames = encoder(torch.randn(2, 50_000))
    assert frames.shape[0] == 2
    assert frames.shape[2] == encoder.output_dim
    lost_ms = 3125 - frames.shape[1] * encoder.hop_size_in_ms  # at the two ends
    assert 0 <= lost_ms <= 2000 * encoder.source.frame_offset_sec + encoder.hop_size_in_ms
    assert encoder(torch.randn(50_000)).shape == frames[:1].shape


def test_no_model_is_one_line(monkeypatch):
    monkeypatch.delenv(xares.VARIABLE, raising=False)
    with pytest.raises(ValueError, match="no model; set SSL_AUDIO_MODEL to the folder"):
        xares.SslAudioEncoder()
