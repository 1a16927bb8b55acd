"""Labels of bursts of noise with quiet moments between them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ssl_audio
from ssl_audio.batch import IGNORE_CODE
from ssl_audio.models.padding import conv_frames
from ssl_audio.tokenizers.energy_valleys import (
    EnergyValleyTokenizer,
    energy_valleys,
    sonorant_valleys,
)

BURST = 4800  # samples, 0.3 s
HUBERT = [(0, 10, 5), *[(0, 3, 2)] * 4, *[(0, 2, 2)] * 2]


def bursts(count: int) -> torch.Tensor:
    level = np.tile(np.hanning(BURST) + 1e-3, count)
    noise = np.random.default_rng(0).standard_normal(len(level))
    return torch.from_numpy(0.3 * level * noise).float()


def test_every_burst_has_a_segment_and_every_valley_a_width():
    wave = bursts(4)
    for find in (energy_valleys, sonorant_valleys):
        for start in (0.3, 0.6, 0.9):
            assert np.abs(find(wave.numpy())[:, 0] - start).min() < 0.04
    touching, apart = (
        EnergyValleyTokenizer(gap_sec).encode(wave[None]).codes[0, :, 0] for gap_sec in (0.0, 0.08)
    )
    middles = (np.array([0.15, 0.45, 0.75, 1.05]) * 50).astype(int)
    assert (apart[middles] > 0).all()
    valleys = (np.array([0.27, 0.57, 0.87]) * 50).astype(int)
    assert (touching[valleys] > 0).all()
    assert not apart[valleys].any()


def test_a_clip_in_a_padded_batch_has_its_own_labels():
    tokenizer = EnergyValleyTokenizer(0.06)
    long, short = bursts(4), bursts(2)
    batch = torch.nn.utils.rnn.pad_sequence([long, short], batch_first=True)
    tokens = tokenizer.encode(batch, torch.tensor([len(long), len(short)]))
    alone = tokenizer.encode(short[None])
    count = int(alone.lengths[0])
    assert tokens.lengths.tolist() == [tokenizer.num_frames(len(long)), count]
    assert torch.equal(tokens.codes[1, :count], alone.codes[0])
    assert (tokens.codes[1, count:] == IGNORE_CODE).all()
    assert tokenizer.encode(torch.zeros(1, 100)).codes.shape == (1, 0, 1)


def test_frames_are_huberts():
    sizes = [0, 80, 399, 400, 719, 720, 16_000, 80_320]
    found = [EnergyValleyTokenizer(0.0).num_frames(size) for size in sizes]
    assert found == [conv_frames(size, HUBERT) for size in sizes]


def test_export_round_trip(tmp_path):
    tokenizer = EnergyValleyTokenizer(0.06)
    restored = ssl_audio.load_tokenizer(ssl_audio.save(tokenizer, tmp_path))
    wave = bursts(2)[None]
    assert torch.equal(restored.encode(wave).codes, tokenizer.encode(wave).codes)


def test_a_valley_has_no_negative_width():
    with pytest.raises(ValueError, match=r"gap_sec=-1: give a length"):
        EnergyValleyTokenizer(-1)


def test_noise_at_the_level_of_the_floor_has_no_label():
    quiet = torch.from_numpy(1e-2 * np.random.default_rng(1).standard_normal(16_000)).float()
    wave = torch.cat([quiet, bursts(2), quiet])
    assert len(energy_valleys(wave.numpy())) > len(found := sonorant_valleys(wave.numpy()))
    assert ((found[:, 1] > 1.0) & (found[:, 0] < 1.6)).all()
