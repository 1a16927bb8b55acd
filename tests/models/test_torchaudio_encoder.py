"""wav2vec 2.0, HuBERT and WavLM through torchaudio: weights, parity, padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from torchaudio.pipelines import Wav2Vec2Bundle

import ssl_audio
from ssl_audio.checkpoints import CheckpointError
from ssl_audio.models.torchaudio_encoder import TorchaudioEncoder

CONVS = [(12, 10, 5), (12, 3, 2), (12, 2, 2)]


def tiny_params(architecture: str, large: bool) -> dict[str, Any]:
    """Arguments of torchaudio's factories: the Large variants normalise by layer, Base by group."""
    params = {
        "extractor_mode": "layer_norm" if large else "group_norm",
        "extractor_conv_layer_config": CONVS,
        "extractor_conv_bias": large,
        "encoder_embed_dim": 16,
        "encoder_projection_dropout": 0.1,
        "encoder_pos_conv_kernel": 8,
        "encoder_pos_conv_groups": 4,
        "encoder_num_layers": 3,
        "encoder_num_heads": 2,
        "encoder_attention_dropout": 0.1,
        "encoder_ff_interm_features": 24,
        "encoder_ff_interm_dropout": 0.1,
        "encoder_dropout": 0.1,
        "encoder_layer_norm_first": large,
        "encoder_layer_drop": 0.1,
        "aux_num_out": None,
    }
    if architecture == "WavLM":
        params |= {"encoder_num_buckets": 8, "encoder_max_distance": 20}
    return params


@pytest.fixture
def bundle(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, randomized
) -> Wav2Vec2Bundle:
    """``torchaudio.pipelines.TINY`` with its weights in torch.hub's cache."""
    architecture, large = request.param
    params = tiny_params(architecture, large)
    factory = {"WavLM": torchaudio.models.wavlm_model, "Wav2Vec2": torchaudio.models.wav2vec2_model}
    torch.manual_seed(0)
    model = randomized(factory[architecture](**params))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(model.state_dict(), tmp_path / "checkpoints" / "tiny.pth")
    tiny = Wav2Vec2Bundle("tiny.pth", params, 16000, large, architecture)
    monkeypatch.setattr(torchaudio.pipelines, "TINY", tiny, raising=False)
    return tiny


VARIANTS = [("WavLM", True), ("WavLM", False), ("Wav2Vec2", True), ("Wav2Vec2", False)]
each_variant = pytest.mark.parametrize("bundle", VARIANTS, indirect=True)


@each_variant
def test_a_clip_alone_gives_what_the_bundle_gives(bundle, clips):
    encoder = ssl_audio.load_encoder("torchaudio:TINY")
    model = bundle.get_model()
    for clip in clips:
        with torch.inference_mode():
            layers, _ = model.extract_features(clip[None])
            frames, _ = model(clip[None])
            out = encoder(clip[None])
        assert out.frames.shape[1] == encoder.num_frames(len(clip)) == out.lengths[0]
        torch.testing.assert_close(out.frames, frames, atol=1e-5, rtol=1e-4)
        assert len(out.hidden_states) == encoder.num_layers + 1 == len(layers) + 1
        for ours, theirs in zip(out.hidden_states[1:], layers, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@each_variant
def test_a_clip_in_a_padded_batch_gives_what_it_gives_alone(bundle, clips, padded):
    encoder = ssl_audio.load_encoder("torchaudio:TINY")
    waveforms, lengths = padded
    with torch.inference_mode():
        batch = encoder(waveforms, lengths)
        for row, clip in enumerate(clips):
            alone = encoder(clip[None])
            count = alone.frames.shape[1]
            assert batch.lengths[row] == count
            for ours, theirs in zip(batch.hidden_states, alone.hidden_states, strict=True):
                assert (ours[row, :count] - theirs[0]).abs().max() < 1e-4


@pytest.mark.parametrize("bundle", [("WavLM", False), ("Wav2Vec2", True)], indirect=True)
def test_clips_too_short_for_a_frame(bundle):
    encoder = ssl_audio.load_encoder("torchaudio:TINY")
    out = encoder(torch.randn(2, 5), torch.tensor([5, 0]))
    assert out.frames.shape == (2, 0, encoder.embed_dim)
    out = encoder(torch.randn(2, 2000), torch.tensor([2000, 5]))
    assert out.lengths.tolist() == [encoder.num_frames(2000), 0]
    assert out.frames.isfinite().all()


@each_variant
def test_export_round_trip(bundle, tmp_path, padded):
    encoder = ssl_audio.load_encoder("torchaudio:TINY")
    restored = ssl_audio.load_encoder(ssl_audio.save(encoder, tmp_path / "export"))
    waveforms, lengths = padded
    assert torch.equal(restored(waveforms, lengths).frames, encoder(waveforms, lengths).frames)


def test_wavlm_large_is_built_as_published():
    bundle = torchaudio.pipelines.WAVLM_LARGE
    with torch.device("meta"):
        encoder = TorchaudioEncoder(bundle._model_type, bundle._params, bundle._normalize_waveform)
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count / 1e6 == pytest.approx(315.45, abs=0.01)
    assert (encoder.num_layers, encoder.embed_dim, encoder.frame_rate) == (24, 1024, 50.0)
    assert encoder.num_frames(160_000) == 499


@pytest.mark.parametrize("bundle", [("Wav2Vec2", False)], indirect=True)
def test_bad_bundles_end_in_one_line(bundle, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"no bundle 'WAVLM_HUGE'.*WAVLM_LARGE") as caught:
        ssl_audio.load_encoder("torchaudio:WAVLM_HUGE")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(bundle, "_path", "https://127.0.0.1:1/weights.pth")
    with pytest.raises(CheckpointError, match=r"put the file at .*checkpoints/weights\.pth"):
        ssl_audio.load_encoder("torchaudio:TINY")
    monkeypatch.setattr(bundle, "_path", "tiny.pth")
    cached = tmp_path / "checkpoints" / "tiny.pth"
    cached.write_bytes(cached.read_bytes()[:2000])
    with pytest.raises(CheckpointError, match=r"tiny\.pth is broken .* delete it") as caught:
        ssl_audio.load_encoder("torchaudio:TINY")
    assert "\n" not in str(caught.value)


def official_name(name: str) -> str:
    """A tensor of transformers' WavLM as unilm's own checkpoints call it."""
    weight_norm = "encoder.pos_conv_embed.conv.parametrizations.weight.original"
    for theirs, official in {
        "feature_projection.projection": "post_extract_proj",
        "feature_projection.layer_norm": "layer_norm",
        f"{weight_norm}0": "encoder.pos_conv.0.weight_g",
        f"{weight_norm}1": "encoder.pos_conv.0.weight_v",
        "encoder.pos_conv_embed.conv.bias": "encoder.pos_conv.0.bias",
        "attention.gru_rel_pos_linear": "self_attn.grep_linear",
        "attention.gru_rel_pos_const": "self_attn.grep_a",
        "attention.rel_attn_embed": "self_attn.relative_attention_bias",
        "attention.": "self_attn.",
        "feed_forward.intermediate_dense": "fc1",
        "feed_forward.output_dense": "fc2",
        "masked_spec_embed": "mask_emb",
    }.items():
        if theirs in name:
            return name.replace(theirs, official)
    if name.startswith("encoder.layers.") and ".final_layer_norm" not in name:
        return name.replace(".layer_norm", ".self_attn_layer_norm")
    return name


@pytest.mark.parametrize("large", [True, False])
def test_the_authors_wavlm_file_agrees_with_transformers(large, tmp_path, clips, randomized):
    transformers = pytest.importorskip("transformers")
    convs = [(12, 10, 5), (12, 3, 2), (12, 3, 2), (12, 2, 2)]
    options = transformers.WavLMConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=[12] * 4,
        conv_kernel=[kernel for _, kernel, _ in convs],
        conv_stride=[stride for *_, stride in convs],
        conv_bias=False,
        feat_extract_norm="layer" if large else "group",
        do_stable_layer_norm=large,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
        num_buckets=8,
        max_bucket_distance=20,
    )
    torch.manual_seed(0)
    model = randomized(transformers.WavLMModel(options)).eval()
    cfg = {
        "extractor_mode": "layer_norm" if large else "default",
        "conv_feature_layers": "[(12,10,5)] + [(12,3,2)] * 2 + [(12,2,2)]",
        **{"conv_bias": False, "conv_pos": 8, "conv_pos_groups": 4, "normalize": False},
        **{"encoder_embed_dim": 16, "encoder_layers": 2, "encoder_attention_heads": 2},
        **{"encoder_ffn_embed_dim": 24, "num_buckets": 8, "max_distance": 20},
        **{"layer_norm_first": large, "encoder_layerdrop": 0.0, "dropout_input": 0.0},
        **{"attention_dropout": 0.0, "activation_dropout": 0.0, "dropout": 0.0},
    }
    weights = {}
    for name, tensor in model.state_dict().items():
        name = official_name(name)
        if name.startswith("feature_extractor."):
            norm = ".2.1." if large else ".2."
            name = name.replace(".conv.", ".0.").replace(".layer_norm.", norm)
        weights[name] = tensor
    torch.save({"cfg": cfg, "model": weights}, tmp_path / "WavLM.pt")

    encoder = ssl_audio.load_encoder(tmp_path / "WavLM.pt")
    for clip in clips:
        with torch.inference_mode():
            theirs = model(clip[None], output_hidden_states=True)
            ours = encoder(clip[None])
        torch.testing.assert_close(ours.frames, theirs.last_hidden_state, atol=2e-5, rtol=1e-4)
        for x, y in zip(ours.hidden_states, theirs.hidden_states, strict=True):
            torch.testing.assert_close(x, y, atol=2e-5, rtol=1e-4)
