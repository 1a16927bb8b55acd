from __future__ import annotations

import pytest
import torch

from ssl_audio import hub
from ssl_audio.batch import IGNORE_CODE
from ssl_audio.checkpoints import CheckpointError
from ssl_audio.models.beats.checkpoint import official_tensors
from ssl_audio.tokenizers import DistilledTokenizer

ENCODER = {
    "embed_dim": 16,
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 2,
    "conv_pos": 8,
    "conv_pos_groups": 2,
}


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    tokenizer = DistilledTokenizer(ENCODER, codebook_size=20, codebook_dim=6, revive_below=0.1)
    tokenizer.codebook.initialized.fill_(True)
    return tokenizer.eval()


def official(tokenizer):
    """Content of an official file with this tokenizer's weights."""
    inner = {"patch_embedding.", "layer_norm.", "post_extract_proj.", "encoder."}
    state = tokenizer.state_dict()
    encoder = {
        name.removeprefix("encoder."): x
        for name, x in state.items()
        if name.startswith(tuple(f"encoder.{prefix}" for prefix in inner))
    }
    codebook = tokenizer.codebook
    return {
        "cfg": {**tokenizer.encoder.config, "quant_n": 20, "quant_dim": 6},
        "model": {
            **official_tensors(encoder, tokenizer.encoder.num_layers),
            **{name: x for name, x in state.items() if name.startswith("quantize_layer.")},
            "quantize.embedding.weight": codebook.embedding.clone(),
            "quantize.embedding.embed_avg": codebook.embedding.clone(),
            "quantize.embedding.cluster_size": codebook.usage.clone(),
            "quantize.embedding.initted": codebook.initialized.float()[None],
            "quantize.cluster_size": codebook.usage.clone(),
        },
    }


def test_contract(tokenizer, clips):
    waveforms, lengths = clips
    tokens = tokenizer.encode(waveforms, lengths)
    assert tokens.lengths.tolist() == tokenizer.num_frames(lengths).tolist() == [48, 24, 0]
    assert tokens.codes.shape == (3, 48, 1)
    for codes, length in zip(tokens.codes, tokens.lengths, strict=True):
        assert (codes[length:] == IGNORE_CODE).all()
        assert ((codes[:length] >= 0) & (codes[:length] < 20)).all()
    assert tokenizer.frame_rate == 50.0
    assert (tokenizer.codebook_size, tokenizer.num_codebooks) == (20, 1)


def test_a_clip_alone_has_the_patches_it_has_in_a_batch(tokenizer, clips):
    waveforms, lengths = clips
    with torch.no_grad():
        batch = tokenizer.project(*tokenizer.encoder.features(waveforms, lengths))
    codes = tokenizer.encode(waveforms, lengths).codes
    for i, num_samples in enumerate(lengths.tolist()):
        clip, length = waveforms[i : i + 1, :num_samples], batch[1][i]
        with torch.no_grad():
            alone, _ = tokenizer.project(*tokenizer.encoder.features(clip, lengths[i : i + 1]))
        torch.testing.assert_close(alone[0, :length], batch[0][i, :length], atol=1e-4, rtol=0)
        assert torch.equal(tokenizer.encode(clip).codes[0, :length], codes[i, :length])


def test_encoding_changes_nothing_and_depends_on_nothing_around(tokenizer, clips):
    expected = tokenizer.encode(*clips).codes
    before = {name: x.clone() for name, x in tokenizer.state_dict().items()}
    tokenizer.train()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer.encode(*clips).codes, expected)
    assert tokenizer.training
    for name, tensor in tokenizer.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_export(tokenizer, clips, tmp_path):
    restored = hub.load_tokenizer(hub.save(tokenizer, tmp_path))
    assert restored.config == tokenizer.config
    assert torch.equal(restored.encode(*clips).codes, tokenizer.encode(*clips).codes)


def test_official_file(tokenizer, clips, tmp_path):
    torch.save(official(tokenizer), tmp_path / "tokenizer.pt")
    restored = hub.load_tokenizer(tmp_path / "tokenizer.pt")
    assert torch.equal(restored.encode(*clips).codes, tokenizer.encode(*clips).codes)
    assert not restored.training


def test_files_that_cannot_be_used(tokenizer, tmp_path):
    path = tmp_path / "bad.pt"

    def error_of(content) -> str:
        torch.save(content, path)
        with pytest.raises(CheckpointError) as caught:
            hub.load_tokenizer(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        return str(caught.value)

    good = official(tokenizer)
    model = good["model"]

    def without(name):
        return {"cfg": good["cfg"], "model": {k: v for k, v in model.items() if k != name}}

    assert "no cfg" in error_of({"model": model})
    assert "unknown BEATs config keys ['surprise']" in error_of(
        {**good, "cfg": good["cfg"] | {"surprise": 1}}
    )
    assert "not a BEATs tokenizer" in error_of(without("quantize.embedding.weight"))
    assert "1 missing (quantize_layer.2.bias)" in error_of(without("quantize_layer.2.bias"))
    assert "unexpected" in error_of({**good, "model": model | {"extra": torch.zeros(1)}})
    assert "another architecture" in error_of({"cfg": {}, "model": {"conv.weight": torch.ones(1)}})
    never = {"quantize.embedding.initted": torch.zeros(1)}
    assert "never initialised" in error_of({**good, "model": model | never})
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="truncated"):
        hub.load_tokenizer(path)
