"""Dasheng through its own package: weights, parity, padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dasheng.pretrained import pretrained
from dasheng.pretrained.pretrained import Dasheng

import ssl_audio
from ssl_audio.checkpoints import CheckpointError
from ssl_audio.models import dasheng_encoder

OPTIONS = {"embed_dim": 16, "depth": 3, "num_heads": 2, "target_length": 40}


@pytest.fixture
def checkpoint(tmp_path: Path, randomized) -> Path:
    """A small model in the layout of the authors' files, batch-norm statistics included."""
    torch.manual_seed(0)
    model = randomized(Dasheng(**OPTIONS))
    statistics = model.init_bn[1]
    statistics.running_mean.uniform_(-40, -20)
    statistics.running_var.uniform_(100, 400)
    torch.save({"model": model.state_dict(), "config": OPTIONS}, tmp_path / "dasheng.pt")
    return tmp_path / "dasheng.pt"


@pytest.fixture
def clips() -> list[torch.Tensor]:
    """Longer than a window of 0.4 s, shorter, and much weaker than its neighbours."""
    generator = torch.Generator().manual_seed(1)
    lengths_levels = ((16_000, 0.3), (6_399, 0.5), (9_000, 1e-6))
    return [level * torch.randn(n, generator=generator) for n, level in lengths_levels]


def test_a_clip_alone_gives_what_the_package_gives(checkpoint, clips):
    encoder = ssl_audio.load_encoder(checkpoint)
    model = Dasheng.from_pretrained(str(checkpoint)).eval()
    for clip in clips:
        with torch.inference_mode():
            theirs, ours = model(clip[None]), encoder(clip[None])
        assert ours.frames.shape[1] == encoder.num_frames(len(clip)) == ours.lengths[0]
        torch.testing.assert_close(ours.frames, theirs, atol=1e-5, rtol=1e-4)
        assert len(ours.hidden_states) == encoder.num_layers + 1 == OPTIONS["depth"] + 1


def test_a_clip_in_a_padded_batch_gives_what_it_gives_alone(checkpoint, clips, padded):
    encoder = ssl_audio.load_encoder(f"dasheng:{checkpoint}")
    with torch.inference_mode():
        batch = encoder(*padded)
        for row, clip in enumerate(clips):
            alone = encoder(clip[None])
            count = alone.frames.shape[1]
            assert batch.lengths[row] == count
            for ours, theirs in zip(batch.hidden_states, alone.hidden_states, strict=True):
                assert (ours[row, :count] - theirs[0]).abs().max() < 1e-4


def test_clips_too_short_for_a_frame(checkpoint):
    encoder = ssl_audio.load_encoder(checkpoint)
    out = encoder(torch.randn(2, 300), torch.tensor([300, 0]))
    assert out.frames.shape == (2, 0, encoder.embed_dim)
    assert len(out.hidden_states) == encoder.num_layers + 1
    out = encoder(torch.randn(2, 4000), torch.tensor([4000, 100]))
    assert out.lengths.tolist() == [6, 0]
    assert out.frames.isfinite().all()


def test_export_round_trip(checkpoint, tmp_path, padded):
    encoder = ssl_audio.load_encoder(checkpoint)
    restored = ssl_audio.load_encoder(ssl_audio.save(encoder, tmp_path / "export"))
    assert torch.equal(restored(*padded).frames, encoder(*padded).frames)
    assert (restored.frame_rate, restored.embed_dim) == (25.0, 16)


def test_names_are_downloaded_into_the_cache_of_torch_hub(tmp_path, monkeypatch, padded):
    """The file of a tiny model lies where the download of dasheng_base would put it."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setitem(dasheng_encoder.SIZES, "dasheng_tiny", {"depth": 3})
    url = "https://127.0.0.1:1/files/dasheng_tiny.pt?download=1"
    monkeypatch.setitem(pretrained.PRETRAINED_CHECKPOINTS, "dasheng_tiny", url)
    with pytest.raises(
        CheckpointError, match=r"cannot be downloaded .*checkpoints/dasheng_tiny\.pt"
    ):
        ssl_audio.load_encoder("dasheng:dasheng_tiny")
    cached = tmp_path / "checkpoints" / "dasheng_tiny.pt"
    torch.save({"model": pretrained.Dasheng(**OPTIONS).state_dict(), "config": OPTIONS}, cached)
    assert ssl_audio.load_encoder("dasheng:dasheng_tiny")(*padded).frames.isfinite().all()
    cached.write_bytes(cached.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"dasheng_tiny\.pt is broken .* delete it"):
        ssl_audio.load_encoder("dasheng:dasheng_tiny")


def test_wrong_checkpoints_end_in_one_line(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "config": {**OPTIONS, "depth": 2}}, checkpoint)
    with pytest.raises(CheckpointError, match=r"does not fit Dasheng: tensors \d+ unexpected"):
        ssl_audio.load_encoder(checkpoint)
    torch.save({**content, "config": {**OPTIONS, "pooling": "token"}}, checkpoint)
    with pytest.raises(CheckpointError, match="several tokens per frame"):
        ssl_audio.load_encoder(checkpoint)
    with pytest.raises(CheckpointError, match="dasheng_10B does not exist"):
        ssl_audio.load_encoder("dasheng:dasheng_10B")
