from __future__ import annotations

import pytest
import torch
from torch import nn

import ssl_audio
from ssl_audio.batch import IGNORE_CODE
from ssl_audio.models import LogSpectrumEncoder
from ssl_audio.tokenizers import SyllableTokenizer

THRESHOLDS = {"norm_threshold": 1.0, "merge_threshold": 0.9}
UNITS = torch.tensor([[5.0, 0, 0], [0, 5.0, 0], [0, 0, 5.0]])


class FakeEncoder(nn.Module):
    sample_rate, frame_rate, num_layers, kind, config = 16_000, 50.0, 1, "fake", {}
    patches_per_row = 1


def frames_of(*parts):
    """(1, T, 3) from (unit or None for silence, frames)."""
    rows = [(torch.zeros(3) if unit is None else UNITS[unit]).expand(n, 3) for unit, n in parts]
    return torch.cat(rows)[None]


FRAMES = frames_of((0, 4), (1, 3), (None, 5), (1, 6), (None, 20), (2, 4))


def rows_of(tokens, clip=0):
    table = torch.stack([tokens.codes[clip, :, 0], tokens.starts[clip], tokens.ends[clip]], -1)
    return table[: tokens.lengths[clip]].tolist()


def test_units_with_their_times():
    tokens = SyllableTokenizer(FakeEncoder(), UNITS, **THRESHOLDS).tokenize(FRAMES)
    assert rows_of(tokens) == [[0, 0, 4], [1, 4, 7], [1, 12, 18], [2, 38, 42]]


def test_long_silences_are_tokens():
    tokenizer = SyllableTokenizer(FakeEncoder(), UNITS, silence_gap_sec=0.14, **THRESHOLDS)
    assert tokenizer.codebook_size == 4
    tokens = tokenizer.tokenize(FRAMES)
    assert rows_of(tokens) == [[0, 0, 4], [1, 4, 7], [1, 12, 18], [3, 18, 38], [2, 38, 42]]


def test_equal_neighbours_become_one():
    centroids = torch.tensor([[5.0, 5.0, 0], [0, 0, 5.0]])
    tokenizer = SyllableTokenizer(FakeEncoder(), centroids, deduplicate=True, **THRESHOLDS)
    assert rows_of(tokenizer.tokenize(FRAMES)) == [[0, 0, 7], [0, 12, 18], [1, 38, 42]]


@pytest.mark.parametrize("options", [{}, {"silence_gap_sec": 0.0}])
def test_clips_of_a_batch(options):
    tokenizer = SyllableTokenizer(FakeEncoder(), UNITS, **THRESHOLDS, **options)
    batch = FRAMES.repeat(3, 1, 1)
    tokens = tokenizer.tokenize(batch, torch.tensor([42, 9, 0]))
    alone = tokenizer.tokenize(FRAMES[:, :9])
    assert rows_of(tokens, 1) == rows_of(alone)
    assert tokens.lengths.tolist()[1:] == [2, 0]
    assert (tokens.codes[2] == IGNORE_CODE).all()
    assert (tokens.starts[2] == -1).all()
    assert tokens.codes.dtype == tokens.starts.dtype == torch.int64


def test_times_without_units():
    tokens = SyllableTokenizer(FakeEncoder(), **THRESHOLDS).tokenize(FRAMES)
    assert tokens.codes.shape == (1, 4, 0)
    assert tokens.ends.tolist() == [[4, 7, 18, 42]]
    assert tokens.to("cpu").starts.tolist() == [[0, 4, 12, 38]]


def test_silence_only():
    for options in ({}, {"deduplicate": True}):
        tokens = SyllableTokenizer(FakeEncoder(), UNITS, **THRESHOLDS, **options).tokenize(
            torch.zeros(2, 7, 3)
        )
        assert tokens.codes.shape == (2, 0, 1)
        assert tokens.lengths.tolist() == [0, 0]


def test_a_real_encoder_and_its_export(tmp_path):
    encoder = LogSpectrumEncoder()
    tokenizer = SyllableTokenizer(
        encoder, torch.randn(5, encoder.embed_dim), norm_threshold=0.0, merge_threshold=0.5,
        silence_gap_sec=0.2,
    )  # fmt: skip
    waveforms = torch.randn(2, 12_000, generator=torch.Generator().manual_seed(0)) * 0.1
    waveforms[1, 6000:] = 0
    tokens = tokenizer.encode(waveforms, torch.tensor([12_000, 6000]))
    assert rows_of(tokens, 1) == rows_of(tokenizer.encode(waveforms[1:, :6000]))
    loaded = ssl_audio.load_tokenizer(ssl_audio.save(tokenizer, tmp_path))
    assert rows_of(loaded.encode(waveforms)) == rows_of(tokenizer.encode(waveforms))
    assert loaded.options == tokenizer.options


def test_units_can_be_fitted_on_segment_features():
    encoder = LogSpectrumEncoder()
    options = {"norm_threshold": 0.0, "merge_threshold": 0.95}
    waveforms = torch.randn(2, 12_000, generator=torch.Generator().manual_seed(0)) * 0.1
    waveforms[:, 5000:] = 0.3 * torch.sin(torch.arange(7000) * 0.17)
    lengths = torch.tensor([12_000, 9000])
    tokenizer = SyllableTokenizer(encoder, **options)
    features = tokenizer.segment_features(waveforms, lengths)
    tokens = tokenizer.encode(waveforms, lengths)
    assert features.shape == (int(tokens.lengths.sum()), encoder.embed_dim)
    start, end = int(tokens.starts[0, 1]), int(tokens.ends[0, 1])
    expected = encoder(waveforms[:1]).frames[0, start:end].mean(0)
    torch.testing.assert_close(features[1], expected, atol=1e-4, rtol=1e-4)
    units = SyllableTokenizer(encoder, features, **options).encode(waveforms, lengths)
    assert units.codes[0, :2, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deduplicate": True}, "need units"),
        ({"silence_gap_sec": -1.0}, "silence_gap_sec=-1"),
        ({"merge_threshold": 7.0}, "merge_threshold=7"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SyllableTokenizer(FakeEncoder(), **(THRESHOLDS | options))
