from __future__ import annotations

import pytest
import torch

from ssl_audio import hub
from ssl_audio.batch import IGNORE_CODE
from ssl_audio.models import BeatsEncoder
from ssl_audio.tokenizers import RandomProjectionTokenizer

SIZES = {"codebook_size": 50, "codebook_dim": 8, "embed_dim": 12}


@pytest.fixture(scope="module")
def tokenizer():
    return RandomProjectionTokenizer(**SIZES, seed=3)


def test_contract_and_clock(tokenizer, clips):
    waveforms, lengths = clips
    tokens = tokenizer.encode(waveforms, lengths)
    encoder = BeatsEncoder(encoder_layers=1, encoder_embed_dim=32, encoder_attention_heads=2)
    assert tokens.lengths.tolist() == encoder.num_frames(lengths).tolist() == [48, 24, 0]
    assert tokenizer.num_frames(16_000) == 48
    assert tokenizer.frame_rate == encoder.frame_rate == 50.0
    assert tokens.codes.shape == (3, 48, 1)
    assert tokens.codes.dtype == torch.int64
    for codes, length in zip(tokens.codes, tokens.lengths, strict=True):
        assert (codes[length:] == IGNORE_CODE).all()
        assert ((codes[:length] >= 0) & (codes[:length] < 50)).all()
    assert len(tokens.codes.unique()) > 4


def test_features_are_the_encoders(tokenizer, clips):
    waveforms, lengths = clips
    encoder = BeatsEncoder(encoder_layers=1, encoder_embed_dim=32, encoder_attention_heads=2)
    tokens = tokenizer.encode_features(*encoder.features(waveforms, lengths))
    assert torch.equal(tokens.codes, tokenizer.encode(waveforms, lengths).codes)


def test_a_clip_alone_has_the_codes_it_has_in_a_batch(tokenizer, clips):
    waveforms, lengths = clips
    batch = tokenizer.encode(waveforms, lengths)
    for i, num_samples in enumerate(lengths.tolist()):
        alone = tokenizer.encode(waveforms[i : i + 1, :num_samples])
        length = batch.lengths[i]
        assert alone.lengths == length
        assert torch.equal(alone.codes[0, :length], batch.codes[i, :length])


def test_the_export_holds_the_tables(tokenizer, clips, tmp_path):
    """The codes are those of the stored tables, whatever the seed would give."""
    other = RandomProjectionTokenizer(**SIZES, seed=3)
    other.load_state_dict(RandomProjectionTokenizer(**SIZES, seed=4).state_dict())
    restored = hub.load_tokenizer(hub.save(other, tmp_path))
    expected = other.encode(*clips).codes
    assert torch.equal(restored.encode(*clips).codes, expected)
    assert not torch.equal(tokenizer.encode(*clips).codes, expected)
    assert restored.config == tokenizer.config


def test_the_seed_alone_decides_and_precision_does_not(tokenizer, clips):
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = RandomProjectionTokenizer(**SIZES, seed=3).to(torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.autocast("cpu", torch.bfloat16):
        codes = again.encode(*clips).codes
    assert torch.equal(codes, tokenizer.encode(*clips).codes)
    assert not list(tokenizer.parameters())


@pytest.mark.parametrize("wrong", [{"codebook_size": 0}, {"patch_size": 200}, {"fbank_std": 0.0}])
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match="random projection: codebook_size"):
        RandomProjectionTokenizer(**SIZES | wrong)
