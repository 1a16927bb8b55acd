"""HuBERT, WavLM and wav2vec 2.0 through transformers: weights, parity, padding."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import transformers

import ssl_audio
from ssl_audio.checkpoints import CheckpointError
from ssl_audio.models.huggingface_encoder import HuggingFaceEncoder

CLASSES = {
    "hubert": (transformers.HubertConfig, transformers.HubertModel),
    "wavlm": (transformers.WavLMConfig, transformers.WavLMModel),
    "wav2vec2": (transformers.Wav2Vec2Config, transformers.Wav2Vec2Model),
}
VARIANTS = [("hubert", False), ("hubert", True), ("wavlm", False), ("wavlm", True)]
each_variant = pytest.mark.parametrize("folder", [*VARIANTS, ("wav2vec2", True)], indirect=True)


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, randomized) -> Path:
    """A model as ``save_pretrained`` writes it; Large models normalise waveform and layers."""
    model_type, large = request.param
    config_class, model_class = CLASSES[model_type]
    config = config_class(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=[12] * 3,
        conv_kernel=[10, 3, 2],
        conv_stride=[5, 2, 2],
        feat_extract_norm="layer" if large else "group",
        do_stable_layer_norm=large,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
    )
    torch.manual_seed(0)
    randomized(model_class(config)).save_pretrained(tmp_path / "model")
    transformers.Wav2Vec2FeatureExtractor(do_normalize=large).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@each_variant
def test_a_clip_alone_gives_what_transformers_gives(folder, clips):
    encoder = ssl_audio.load_encoder(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    for clip in clips:
        inputs = extractor(clip.numpy(), sampling_rate=16000, return_tensors="pt").input_values
        with torch.inference_mode():
            theirs = model(inputs, output_hidden_states=True)
            ours = encoder(clip[None])
        assert ours.frames.shape[1] == encoder.num_frames(len(clip)) == ours.lengths[0]
        torch.testing.assert_close(ours.frames, theirs.last_hidden_state, atol=1e-5, rtol=1e-4)
        for x, y in zip(ours.hidden_states, theirs.hidden_states, strict=True):
            torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4)


@each_variant
def test_a_clip_in_a_padded_batch_gives_what_it_gives_alone(folder, clips, padded):
    encoder = ssl_audio.load_encoder(f"hf:{folder}")
    with torch.inference_mode():
        batch = encoder(*padded)
        for row, clip in enumerate(clips):
            alone = encoder(clip[None])
            count = alone.frames.shape[1]
            assert batch.lengths[row] == count
            for ours, theirs in zip(batch.hidden_states, alone.hidden_states, strict=True):
                assert (ours[row, :count] - theirs[0]).abs().max() < 1e-4


@pytest.mark.parametrize("folder", VARIANTS[:1], indirect=True)
def test_clips_too_short_for_a_frame(folder):
    encoder = ssl_audio.load_encoder(folder)
    out = encoder(torch.randn(2, 5), torch.tensor([5, 0]))
    assert out.frames.shape == (2, 0, encoder.embed_dim)
    out = encoder(torch.randn(2, 2000), torch.tensor([2000, 5]))
    assert out.lengths.tolist() == [encoder.num_frames(2000), 0]
    assert out.frames.isfinite().all()


@each_variant
def test_export_round_trip(folder, tmp_path, padded):
    encoder = ssl_audio.load_encoder(folder)
    restored = ssl_audio.load_encoder(ssl_audio.save(encoder, tmp_path / "export"))
    assert isinstance(restored, HuggingFaceEncoder)
    assert torch.equal(restored(*padded).frames, encoder(*padded).frames)


@pytest.mark.parametrize("folder", VARIANTS[:1], indirect=True)
def test_a_hub_name_is_read_from_the_cache_offline(folder, tmp_path, monkeypatch, padded):
    """Hub cache layout: models--ORG--NAME with refs/main naming a snapshot."""
    repository = tmp_path / "cache" / "models--org--tiny"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    folder.rename(repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    encoder = ssl_audio.load_encoder("hf:org/tiny")
    assert encoder(*padded).frames.shape[2] == 16
    with pytest.raises(CheckpointError, match=r"hf:org/absent cannot be downloaded") as caught:
        ssl_audio.load_encoder("hf:org/absent")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", VARIANTS[:1], indirect=True)
def test_incomplete_or_foreign_folders_end_in_one_line(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be loaded") as caught:
        ssl_audio.load_encoder(folder)
    assert "\n" not in str(caught.value)

    other = CLASSES["wavlm"][1](CLASSES["wavlm"][0].from_pretrained(folder))
    other.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(CheckpointError, match=r"lacks \d+ tensors of WavLMModel"):
        ssl_audio.load_encoder(folder)

    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="neither a kind nor a known model_type"):
        ssl_audio.load_encoder(folder)
