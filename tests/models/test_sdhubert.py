"""SD-HuBERT's encoder: aggregator, files, padding, partly fresh layers."""

from __future__ import annotations

import pytest
import torch

import ssl_audio
from ssl_audio.checkpoints import CheckpointError
from ssl_audio.models import HubertEncoder
from ssl_audio.models.sdhubert import SdHubertEncoder, reinitialize_last_layers

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 24,
    "conv_dim": [12] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}


@pytest.fixture
def encoder(randomized):
    torch.manual_seed(0)
    return randomized(SdHubertEncoder(**SIZES)).eval()


@torch.no_grad()
def test_a_clip_in_a_padded_batch_gives_what_it_gives_alone(encoder, clips, padded):
    batch = encoder(*padded)
    for row, clip in enumerate(clips):
        alone = encoder(clip[None])
        count = alone.frames.shape[1]
        assert batch.lengths[row] == count == encoder.num_frames(len(clip)) == alone.lengths[0]
        for ours, theirs in zip(batch.hidden_states, alone.hidden_states, strict=True):
            assert (ours[row, :count] - theirs[0]).abs().max() < 1e-4


@torch.no_grad()
def test_frames_see_the_aggregator(encoder, clips):
    frames = encoder(clips[0][None]).frames
    encoder.cls_token.zero_()
    assert not torch.allclose(encoder(clips[0][None]).frames, frames)


@torch.no_grad()
def test_from_a_hubert_and_back(encoder, padded, tmp_path):
    plain = HubertEncoder.from_encoder(encoder, num_hidden_layers=1).eval()
    assert type(plain) is HubertEncoder
    assert plain.num_layers == 1
    again = SdHubertEncoder.from_encoder(plain, hidden_dropout=0.3).eval()
    assert again.config["hidden_dropout"] == 0.3
    assert all(p.requires_grad for p in again.parameters())
    back = HubertEncoder.from_encoder(again).eval()
    assert torch.equal(back(*padded).frames, plain(*padded).frames)
    with pytest.raises(ValueError, match="missing"):
        HubertEncoder.from_encoder(plain, num_hidden_layers=2)
    restored = ssl_audio.load_encoder(ssl_audio.save(encoder, tmp_path))
    assert isinstance(restored, SdHubertEncoder)
    assert torch.equal(restored(*padded).frames, encoder(*padded).frames)


@torch.no_grad()
def test_the_official_file(encoder, padded, tmp_path):
    tensors = encoder.state_dict()
    token = tensors.pop("cls_token")
    official = {f"speech_model.{name}": x for name, x in tensors.items()}
    official |= {"cls_token": token[None, None], "final_lin.bias": torch.zeros(3)}
    path = tmp_path / "sdhubert_base.pt"
    torch.save({"config": {"layers": 2}, "state_dict": official}, path)
    loaded = SdHubertEncoder.from_checkpoint(path).eval()
    assert torch.equal(loaded(*padded).frames, encoder(*padded).frames)
    opened = ssl_audio.load_encoder(path)
    assert isinstance(opened, SdHubertEncoder)
    assert torch.equal(opened(*padded).frames, encoder(*padded).frames)
    torch.save(tensors, path)
    with pytest.raises(CheckpointError, match="has no cls_token"):
        SdHubertEncoder.from_checkpoint(path)


def test_parts_of_the_last_layers_start_anew(encoder):
    before = {name: x.clone() for name, x in encoder.state_dict().items()}
    reinitialize_last_layers(encoder, 1)
    changed = {n for n, x in encoder.state_dict().items() if not torch.equal(x, before[n])}
    layer = "encoder.layers.1."
    assert changed == {
        *(f"{layer}attention.{name}_proj.weight" for name in ("q", "k", "out")),
        *(
            f"{layer}feed_forward.{name}_dense.{kind}"
            for name in ("intermediate", "output")
            for kind in ("weight", "bias")
        ),
    }
