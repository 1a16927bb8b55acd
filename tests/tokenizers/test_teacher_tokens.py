from __future__ import annotations

import pytest
import torch

from ssl_audio import hub
from ssl_audio.batch import IGNORE_CODE
from ssl_audio.models.spectral import MfccEncoder
from ssl_audio.tokenizers import MultiCodebookQuantizer, MVQTokenizer
from ssl_audio.tokenizers.teacher_tokens import (
    channel_statistics,
    normalize_channels,
    teacher_frames,
)

LENGTHS = torch.tensor([8000, 5000, 700])


@pytest.fixture(scope="module")
def waveforms():
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(3, 8000, generator=generator)
    return noise * (torch.arange(8000) < LENGTHS[:, None])


@pytest.fixture
def tokenizer(waveforms):
    teacher = MfccEncoder(num_mel_bins=12, num_cepstra=4, context=(0,))
    frames, lengths = teacher_frames(teacher, 0, waveforms, LENGTHS)
    mean, std = channel_statistics(torch.cat([x[:n] for x, n in zip(frames, lengths, strict=True)]))
    torch.manual_seed(0)
    quantizer = MultiCodebookQuantizer(12, num_codebooks=4, codebook_size=16)
    return MVQTokenizer(teacher, quantizer, layer=0, mean=mean, std=std)


def test_contract(tokenizer, waveforms):
    tokens = tokenizer.encode(waveforms, LENGTHS)
    assert tokens.lengths.tolist() == tokenizer.num_frames(LENGTHS).tolist()
    assert tokens.codes.shape == (3, tokens.lengths[0], 4)
    assert tokens.codes.dtype == torch.int64
    for codes, length in zip(tokens.codes, tokens.lengths, strict=True):
        assert (codes[length:] == IGNORE_CODE).all()
        assert (codes[:length] >= 0).all()
        assert (codes[:length] < tokenizer.codebook_size).all()
    assert tokenizer.frame_rate == 50.0
    assert tokenizer.num_codebooks == 4


def test_a_clip_alone_has_the_codes_it_has_in_a_batch(tokenizer, waveforms):
    batch = tokenizer.encode(waveforms, LENGTHS)
    for i, num_samples in enumerate(LENGTHS.tolist()):
        alone = tokenizer.encode(waveforms[i : i + 1, :num_samples])
        assert torch.equal(alone.codes[0], batch.codes[i, : batch.lengths[i]])


def test_codes_are_those_of_the_normalised_frames(tokenizer, waveforms):
    frames, lengths = teacher_frames(tokenizer.teacher, None, waveforms, LENGTHS)
    picked = frames[0, : lengths[0]]
    scaled = (picked - tokenizer.mean) / tokenizer.std
    codes = tokenizer.encode(waveforms, LENGTHS).codes[0, : lengths[0]]
    assert torch.equal(codes, tokenizer.quantizer.encode(scaled))
    plain = MVQTokenizer(tokenizer.teacher, tokenizer.quantizer)
    codes = plain.encode(waveforms, LENGTHS).codes[0, : lengths[0]]
    assert torch.equal(codes, tokenizer.quantizer.encode(picked))


def test_statistics():
    frames = torch.randn(500, 3) * torch.tensor([1.0, 50.0, 0.0]) + torch.tensor([0.0, 1e4, 7.0])
    scaled = normalize_channels(frames, *channel_statistics(frames))
    torch.testing.assert_close(scaled.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.square().mean(0), torch.tensor([1.0, 1.0, 0.0]))


def test_precision_and_mode_around_do_not_matter(tokenizer, waveforms):
    expected = tokenizer.encode(waveforms, LENGTHS).codes
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer.encode(waveforms, LENGTHS).codes, expected)
    assert not tokenizer.train().training
    assert not tokenizer.teacher.training
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())


@pytest.mark.parametrize("normalize", [True, False])
def test_export_rebuilds_all_parts(tokenizer, waveforms, tmp_path, normalize):
    if not normalize:
        tokenizer = MVQTokenizer(tokenizer.teacher, tokenizer.quantizer, refine_iters=1)
    restored = hub.load_tokenizer(hub.save(tokenizer, tmp_path))
    assert restored.config == tokenizer.config
    found, expected = restored.encode(waveforms, LENGTHS), tokenizer.encode(waveforms, LENGTHS)
    assert torch.equal(found.codes, expected.codes)


def test_bad_arguments(tokenizer, waveforms):
    with pytest.raises(ValueError, match=r"layer=1: teacher 'mfcc' has hidden states 0 .. 0"):
        teacher_frames(tokenizer.teacher, 1, waveforms)
    with pytest.raises(ValueError, match="both mean and std"):
        MVQTokenizer(tokenizer.teacher, tokenizer.quantizer, mean=torch.zeros(12))
