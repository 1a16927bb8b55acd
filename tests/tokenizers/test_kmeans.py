from __future__ import annotations

import numpy as np
import pytest
import torch

import ssl_audio
from ssl_audio.batch import IGNORE_CODE
from ssl_audio.models import BeatsEncoder, MfccEncoder
from ssl_audio.tokenizers import KMeansTokenizer, fit_kmeans


def vectors_around(centers, count, seed):
    draw = np.random.default_rng(seed)
    picked = centers[draw.integers(len(centers), size=count)]
    return (picked + 0.05 * draw.standard_normal(picked.shape)).astype(np.float32)


CENTERS = np.array([[0, 0], [4, 0], [0, 4], [4, 4]], np.float32)


@pytest.mark.parametrize("size", [7, 60, 500])
def test_streamed_vectors_find_their_centers(size):
    vectors = vectors_around(CENTERS, 1000, seed=0)
    batches = (torch.from_numpy(vectors[i : i + size]) for i in range(0, len(vectors), size))
    found = fit_kmeans(batches, 4, seed=0, batch_size=100)
    distance = torch.cdist(torch.from_numpy(CENTERS), found).min(1).values
    assert found.dtype == torch.float32
    assert (distance < 0.1).all()


def test_every_vector_is_used_once(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "sklearn.cluster.MiniBatchKMeans.partial_fit",
        lambda self, x: (seen.append(x), setattr(self, "cluster_centers_", x[:2])),
    )
    vectors = np.arange(137, dtype=np.float32)[:, None]
    fit_kmeans(np.split(vectors, [5, 90, 100]), 2, seed=0, batch_size=20)
    assert np.concatenate(seen).tolist() == vectors.tolist()


def test_many_units_start_from_different_vectors():
    vectors = np.random.default_rng(0).standard_normal((6000, 2)).astype(np.float32)
    found = fit_kmeans([vectors], 1500, seed=0)
    nearest = torch.cdist(torch.from_numpy(vectors), found).min(1)
    assert nearest.values.mean() < 0.1
    assert len(nearest.indices.unique()) > 1400


def test_too_few_vectors_are_one_line():
    with pytest.raises(ValueError, match="3 vectors for 4 units"):
        fit_kmeans([CENTERS[:3]], 4, seed=0)


@pytest.fixture(scope="module")
def tokenizer():
    teacher = MfccEncoder()
    waveform = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)) * 0.1
    frames = teacher(waveform).frames[0]
    return KMeansTokenizer(teacher, frames[::12])


def test_padding_changes_no_code(tokenizer):
    waveforms = torch.randn(2, 12000, generator=torch.Generator().manual_seed(1)) * 0.1
    waveforms[1, 7000:] = 0
    lengths = torch.tensor([12000, 7000])
    tokens = tokenizer.encode(waveforms, lengths)
    alone = tokenizer.encode(waveforms[1:, :7000])
    count = int(alone.lengths[0])
    assert tokens.lengths.tolist() == tokenizer.num_frames(lengths).tolist()
    assert torch.equal(tokens.codes[1, :count], alone.codes[0])
    assert (tokens.codes[1, count:] == IGNORE_CODE).all()


def test_an_export_gives_the_same_codes(tokenizer, tmp_path):
    waveforms = torch.randn(1, 8000, generator=torch.Generator().manual_seed(2))
    loaded = ssl_audio.load_tokenizer(ssl_audio.save(tokenizer, tmp_path))
    assert torch.equal(loaded.encode(waveforms).codes, tokenizer.encode(waveforms).codes)


def test_patches_of_one_time_are_one_frame():
    sizes = {"embed_dim": 8, "encoder_layers": 1, "encoder_embed_dim": 8, "conv_pos": 4}
    heads = {"encoder_ffn_embed_dim": 8, "encoder_attention_heads": 2, "conv_pos_groups": 2}
    teacher = BeatsEncoder(**sizes, **heads).eval()
    waveforms = torch.randn(1, 16000, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        rows = teacher.time_rows(teacher(waveforms).frames)[0].flatten(1)
    tokens = KMeansTokenizer(teacher, rows).encode(waveforms)
    assert tokens.codes[0, :, 0].tolist() == list(range(6))  # of 160 ms
    tokenizer = KMeansTokenizer(teacher, rows)
    assert (tokenizer.num_frames(16000), tokenizer.frame_rate) == (6, 6.25)
