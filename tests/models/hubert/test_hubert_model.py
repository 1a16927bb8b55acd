"""What the reference files do not show: shapes, dropping, masking, edge cases."""

from __future__ import annotations

import pytest
import torch

import ssl_audio
from ssl_audio.models import HubertEncoder


@torch.no_grad()
def test_a_clip_in_a_padded_batch_gives_what_it_gives_alone(tiny, clips, padded):
    encoder = tiny()
    batch = encoder(*padded)
    assert len(batch.hidden_states) == encoder.num_layers + 1
    for row, clip in enumerate(clips):
        alone = encoder(clip[None])
        count = alone.frames.shape[1]
        assert batch.lengths[row] == count == encoder.num_frames(len(clip))
        for ours, theirs in zip(batch.hidden_states, alone.hidden_states, strict=True):
            assert (ours[row, :count] - theirs[0]).abs().max() < 1e-4


@torch.no_grad()
def test_reference_padding_lets_neighbours_in(tiny, clips, padded):
    encoder = tiny(padding="reference")
    alone = encoder(clips[1][None]).frames[0]
    assert (encoder(*padded).frames[1, : len(alone)] - alone).abs().max() > 1e-3


def test_published_sizes():
    with torch.device("meta"):
        encoder = HubertEncoder(num_hidden_layers=9)
    state = encoder.state_dict()
    assert (len(state), sum(x.numel() for x in state.values())) == (163, 73_108_096)
    assert [encoder.num_frames(n) for n in (80_320, 80_000, 16_000, 400, 399, 0)] == [
        *(250, 249, 49, 1, 0, 0)
    ]
    assert encoder.frame_rate == 50.0


@torch.no_grad()
def test_clips_too_short_for_a_frame_and_silence(tiny):
    encoder = tiny()
    out = encoder(torch.randn(2, 5), torch.tensor([5, 0]))
    assert out.frames.shape == (2, 0, encoder.embed_dim)
    out = encoder(torch.zeros(3, 2000), torch.tensor([2000, 5, 0]))
    assert out.lengths.tolist() == [encoder.num_frames(2000), 0, 0]
    assert all(state.isfinite().all() for state in out.hidden_states)


@torch.no_grad()
def test_masked_frames_hide_their_features(tiny):
    encoder = tiny()
    waves = torch.randn(1, 4000)
    everything = torch.ones(1, encoder.num_frames(4000), dtype=torch.bool)
    states = [
        encoder.forward_features(x, time_mask=everything).frames for x in (waves, 2 + waves.flip(1))
    ]
    assert torch.equal(*states)
    nothing = encoder.forward_features(waves, time_mask=~everything).frames
    assert torch.equal(nothing, encoder.forward_features(waves).frames)


def test_training_is_a_function_of_the_seed_and_reaches_every_weight(tiny):
    encoder = tiny(layerdrop=0.5).train()
    waves, lengths = torch.randn(2, 4000), torch.tensor([4000, 3000])

    def step() -> torch.Tensor:
        torch.manual_seed(3)
        return encoder(waves, lengths).frames

    frames = step()
    assert torch.equal(step(), frames)
    assert not torch.equal(encoder(waves, lengths).frames, frames)
    # 3 layers, half of them dropped: their gradient is zero, not absent
    frames.square().sum().backward()
    without = [name for name, p in encoder.named_parameters() if p.grad is None]
    assert without == ["masked_spec_embed"]
    with torch.no_grad():
        encoder.eval()
        assert torch.equal(encoder(waves, lengths).frames, encoder(waves, lengths).frames)


def test_every_layer_dropped_leaves_the_input_and_zero_gradients(tiny):
    encoder = tiny(layerdrop=1.0).train()
    out = encoder(torch.randn(1, 4000))
    assert all(torch.equal(state, out.hidden_states[0]) for state in out.hidden_states)
    out.frames.sum().backward()
    assert all(not p.grad.any() for p in encoder.encoder.layers.parameters())
    assert encoder.feature_projection.projection.weight.grad.any()


def test_bf16_keeps_clips_apart(tiny, padded):
    encoder = tiny()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        frames = encoder(*padded).frames
    assert frames.isfinite().all()
    with torch.no_grad():
        expected = encoder(*padded).frames[0]
    assert torch.nn.functional.cosine_similarity(frames[0].float(), expected, dim=-1).min() > 0.99


def test_export_round_trip(tiny, padded, tmp_path):
    encoder = tiny(padding="reference", normalize=False)
    restored = ssl_audio.load_encoder(ssl_audio.save(encoder, tmp_path))
    assert restored.config == encoder.config
    assert torch.equal(restored(*padded).frames, encoder(*padded).frames)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_attention_heads": 5}, "num_attention_heads=5: must be a divisor of hidden_size=768"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0: must be at least 1"),
        ({"conv_kernel": [3]}, "as long as conv_kernel and conv_stride"),
        ({"padding": "none"}, "padding='none': must be one of exact, reference"),
    ],
)
def test_configs_that_make_no_hubert(config, message):
    with pytest.raises(ValueError, match=message):
        HubertEncoder(**config)
