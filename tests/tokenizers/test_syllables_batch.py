from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata

import pytest
import torch

from ssl_audio.tokenizers.syllables import segment_syllables
from ssl_audio.tokenizers.syllables_batch import average_segments, segment_batch, segment_ids

LENGTHS = (60, 0, 1, 37)
OPTIONS = ({}, {"reset_counter": True}, {"min_frames": 4, "min_similarity": 0.1})
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def syllable_batch():
    """(4, 60, 16) with loud rubbish after each clip's end."""
    draw = torch.Generator().manual_seed(3)
    vectors = torch.randn(12, 16, generator=draw)
    vectors[::4] *= 0.05
    x = vectors[torch.arange(60) // 5].expand(4, -1, -1)
    return x + 0.3 * torch.randn(4, 60, 16, generator=draw)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", OPTIONS)
def test_each_clip_as_alone(device, options):
    x = syllable_batch()
    thresholds = torch.tensor([1.5, 0.7], device=device)
    for norm, merge in ((1.5, 0.7), thresholds.unbind()):
        found = segment_batch(
            x.to(device), torch.tensor(LENGTHS).to(device), norm, merge, **options
        )
        assert found.shape == (4, 60, 2)
        for clip, length, segments in zip(x, LENGTHS, found.cpu(), strict=True):
            expected = segment_syllables(clip[:length], 1.5, 0.7, **options)
            assert torch.equal(segments[: len(expected)], expected)
            assert (segments[len(expected) :] == -1).all()


def test_without_numba(monkeypatch):
    x = syllable_batch()
    expected = segment_batch(x, None, 1.5, 0.7)
    monkeypatch.setattr("ssl_audio.tokenizers.syllables.find_spec", lambda name: None)
    monkeypatch.setattr("ssl_audio.tokenizers.syllables_batch.find_spec", lambda name: None)
    assert torch.equal(segment_batch(x, None, 1.5, 0.7), expected)


def has_interpreter():
    """Triton's interpreter of 3.6 does not run with NumPy 2.4."""
    try:
        return tuple(map(int, metadata.version("triton").split(".")[:2])) >= (3, 8)
    except metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(not has_interpreter(), reason="needs triton >= 3.8")
def test_the_gpu_program_in_an_interpreter():
    program = """
import torch
from tests_batch import LENGTHS, OPTIONS, syllable_batch
from ssl_audio.tokenizers.syllables_batch import segment_batch
from ssl_audio.tokenizers.syllables_triton import segment_on_device
x, lengths = syllable_batch(), torch.tensor(LENGTHS)
for options in OPTIONS:
    every = {"reset_counter": False, "min_frames": 0, "min_similarity": 0.0} | options
    found = segment_on_device(x, lengths, 1.5, torch.tensor(0.7), **every)
    assert torch.equal(found, segment_batch(x, lengths, 1.5, 0.7, **options)), options
"""
    loader = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("tests_batch", {__file__!r})
sys.modules["tests_batch"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
"""
    result = subprocess.run(
        [sys.executable, "-c", loader + program],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("with_numba", [True, False])
def test_minus_one_joins_opposites_in_spite_of_rounding(with_numba, monkeypatch):
    if not with_numba:
        monkeypatch.setattr("ssl_audio.tokenizers.syllables.find_spec", lambda name: None)
        monkeypatch.setattr("ssl_audio.tokenizers.syllables_batch.find_spec", lambda name: None)
    x = 1e3 * torch.randn(1, 90, 1, generator=torch.Generator().manual_seed(0))
    assert segment_batch(x, None, 0.0, -1.0)[0, :2].tolist() == [[0, 90], [-1, -1]]
    joined = segment_batch(x, None, 0.0, 0.9, min_frames=99, min_similarity=-1.0)
    assert joined[0, :2].tolist() == [[0, 90], [-1, -1]]


def test_segment_ids():
    segments = torch.tensor([[[1, 3], [3, 4], [6, 8]], [[0, 8], [-1, -1], [-1, -1]]])
    assert segment_ids(segments, 8).tolist() == [
        [-1, 0, 0, 1, -1, -1, 2, 2],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert segment_ids(torch.zeros(2, 0, 2, dtype=torch.int64), 3).tolist() == [[-1] * 3] * 2


def test_average_segments():
    x = torch.arange(16.0).reshape(2, 4, 2)
    ids = torch.tensor([[0, 0, -1, 1], [-1, -1, -1, -1]])
    found = average_segments(x.to(torch.bfloat16), ids)
    assert found.dtype == torch.float32
    assert found.tolist() == [[[1, 2], [1, 2], [0, 0], [6, 7]], [[0, 0]] * 4]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="batch wants"):
        segment_batch(torch.ones(3, 4), None, 1.0, 0.8)
    with pytest.raises(ValueError, match=r"merge_threshold=1\.5"):
        segment_batch(torch.ones(1, 3, 4), None, 1.0, 1.5)
