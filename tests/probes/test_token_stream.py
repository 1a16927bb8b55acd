from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ssl_audio.audio import AudioError
from ssl_audio.models import HubertEncoder, LogSpectrumEncoder
from ssl_audio.probes.recordings import Recording, Windowing
from ssl_audio.probes.stream import Failure
from ssl_audio.probes.token_stream import TokenSequence, TokenTotals, iter_tokens
from ssl_audio.tokenizers import KMeansTokenizer, SyllableTokenizer

SECONDS = (1.0, 2.5, 7.0)


@pytest.fixture(scope="module")
def waveforms():
    rng = np.random.default_rng(0)
    return [0.1 * rng.standard_normal(round(16_000 * s)).astype(np.float32) for s in SECONDS]


@pytest.fixture
def recordings(waveforms):
    def reader(samples):
        def read(start_sec=0.0, duration_sec=None):
            start = round(start_sec * 16_000)
            end = None if duration_sec is None else start + round(duration_sec * 16_000)
            return samples[start:end]

        return read

    pairs = zip("abc", SECONDS, waveforms, strict=True)
    return [Recording(name, seconds, reader(x)) for name, seconds, x in pairs]


@pytest.fixture(scope="module")
def encoder():
    return LogSpectrumEncoder().eval()


def test_codes_of_the_tokenizer_itself(encoder, recordings, waveforms):
    centroids = torch.randn(6, encoder.embed_dim, generator=torch.Generator().manual_seed(0))
    tokenizer = KMeansTokenizer(encoder, centroids)
    found = {x.id: x for x in iter_tokens(tokenizer, recordings)}
    for name, samples in zip("abc", waveforms, strict=True):
        expected = tokenizer.encode(torch.from_numpy(samples)[None]).codes[0].numpy()
        np.testing.assert_array_equal(found[name].codes, expected)
        np.testing.assert_allclose(found[name].start_sec, np.arange(len(expected)) / 25)


def test_syllables_do_not_end_at_seams(encoder, recordings):
    tokenizer = SyllableTokenizer(encoder, norm_threshold=0.0, merge_threshold=-1.0)
    windowing = Windowing(2.56, 0.64)
    for found in iter_tokens(tokenizer, recordings, windowing=windowing):
        seconds = dict(zip("abc", SECONDS, strict=True))[found.id]
        assert found.start_sec.tolist() == [0]
        assert found.end_sec.tolist() == pytest.approx([seconds], abs=0.04)
        assert len(found.frames) == round(found.end_sec[0] * encoder.frame_rate)


def test_units_of_a_long_pause_are_those_of_the_whole_recording():
    """HuBERT's norms over time are the recording's in every window."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "conv_dim": [8] * 7}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    hubert = HubertEncoder(**sizes, **positions, num_hidden_layers=1).eval()
    samples = 0.1 * torch.randn(112_000)
    samples[24_000:] *= 1e-4
    centroids = hubert(samples[None]).hidden_states[0][0, ::7]
    tokenizer = KMeansTokenizer(hubert, centroids, layer=0)

    def read(start_sec, duration_sec):
        start = round(start_sec * 16_000)
        stop = None if duration_sec is None else round(duration_sec * 16_000)
        return samples[start:][:stop].numpy()

    (found,) = iter_tokens(
        tokenizer, [Recording("x", 7.0, read)], windowing=Windowing(1.92, 0.64), batch_sec=4.0
    )
    expected = tokenizer.encode(samples[None]).codes[0].numpy()
    assert (found.codes == expected).mean() > 0.99
    alone = tokenizer.encode(samples[None, 81_920:]).codes[0].numpy()
    assert (expected[256:] == alone).mean() < 0.5


def test_a_layer_of_the_encoder(encoder, recordings):
    first = SyllableTokenizer(encoder, layer=0, norm_threshold=0.0, merge_threshold=-1.0)
    last = SyllableTokenizer(
        encoder, layer=-encoder.num_layers - 1, norm_threshold=0.0, merge_threshold=-1.0
    )
    for a, b in zip(*(iter_tokens(x, recordings[:1]) for x in (first, last)), strict=True):
        assert torch.equal(a.frames, b.frames)


def test_what_cannot_be_read_is_a_failure(encoder, recordings):
    def broken(start_sec=0.0, duration_sec=None):
        raise AudioError("b.wav: broken")

    tokenizer = SyllableTokenizer(encoder, norm_threshold=0.0, merge_threshold=0.5)
    found = list(iter_tokens(tokenizer, [recordings[0], Recording("b", 1.0, broken)]))
    assert [x.reason for x in found if isinstance(x, Failure)] == ["b.wav: broken"]
    assert len(found) == 2


def test_rates():
    def tokens(count, codebooks, seconds):
        times = np.zeros(count)
        return TokenSequence("x", seconds, np.zeros((count, codebooks), int), times, times)

    totals = TokenTotals(codebook_size=16)
    totals.add(tokens(10, 2, 4.0))
    totals.add(tokens(5, 2, 6.0))
    assert totals.tokens_per_sec == 3
    assert totals.bits_per_sec == 12
    times_only = TokenTotals(codebook_size=0)
    times_only.add(tokens(8, 0, 2.0))
    assert times_only.tokens_per_sec == 4
    assert math.isnan(times_only.bits_per_sec)
    assert "bit/s" not in str(times_only)
