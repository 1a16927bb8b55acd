from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import pytest
import torch

from ssl_audio.tokenizers.mvq_search import survivors

SIZES = [
    (8, 1, 2),
    (8, 1, 16),
    (8, 2, 4),
    (8, 4, 8),
    (16, 8, 2),
    (16, 16, 4),
    (24, 16, 16),
    (32, 4, 64),
    (32, 32, 8),
    (24, 2, 256),
]


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "mvq.py"
    spec = importlib.util.spec_from_file_location("benchmark_mvq", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("num_codebooks", "codebook_size", "expected"),
    [
        (16, 256, (16, 16, 32, 32, 1)),  # spec 3.2, example
        (32, 16, (8, 8, 16, 16, 32, 1)),
        (4, 4, (4, 8, 1)),
        (8, 2, (2, 4, 16, 1)),
        (1, 256, (1,)),
    ],
)
def test_survivors(num_codebooks, codebook_size, expected):
    assert survivors(num_codebooks, codebook_size) == expected


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize(("dim", "num_codebooks", "codebook_size"), SIZES)
def test_table_scores_find_what_explicit_vectors_find(
    benchmark, random_quantizer, dim, num_codebooks, codebook_size, backend
):
    quantizer = random_quantizer(dim, num_codebooks, codebook_size).double()
    quantizer.backend = backend
    x = torch.randn(80, dim, dtype=torch.float64)
    for iters in (1, 5):
        expected = benchmark.published_encode(quantizer, x, iters)
        assert torch.equal(quantizer.encode(x, refine_iters=iters), expected)


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize(("num_codebooks", "codebook_size"), [(1, 64), (2, 4), (2, 8), (8, 2)])
def test_small_searches_are_exhaustive(random_quantizer, num_codebooks, codebook_size, backend):
    """Where nothing is cut before the last merge, one iteration finds the best of all codes."""
    quantizer = random_quantizer(6, num_codebooks, codebook_size)
    quantizer.backend = backend
    x = torch.randn(50, 6)
    every = torch.tensor(list(itertools.product(range(codebook_size), repeat=num_codebooks)))
    best = torch.cdist(x, quantizer.decode(every)).argmin(1)
    assert torch.equal(quantizer.encode(x, refine_iters=1), every[best])


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_codes_of_a_frame_do_not_depend_on_the_others(random_quantizer, backend):
    quantizer = random_quantizer(16, 4, 32)
    quantizer.backend = backend
    x = torch.randn(150, 16)  # more than a chunk
    alone = torch.cat([quantizer.encode(frame[None]) for frame in x])
    assert torch.equal(quantizer.encode(x), alone)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_a_large_mean_does_not_blur_the_scores(random_quantizer, backend):
    """Teachers have channels that sit far from zero; centers learn to sit there too."""
    quantizer = random_quantizer(16, 4, 16)
    with torch.no_grad():
        quantizer.centers += 500 * torch.randn(16)
        quantizer.centers_scale.zero_()
    quantizer.backend = backend
    x = quantizer.data_mean() + 2 * torch.randn(200, 16)
    exact = quantizer.double().encode(x.double(), refine_iters=1)
    assert (quantizer.float().encode(x, refine_iters=1) == exact).float().mean() > 0.99


@pytest.mark.parametrize("frames", [1, 2, 101])
def test_compiled_search_uses_torch_threads(random_quantizer, frames):
    quantizer, x = random_quantizer(16, 4, 32), torch.randn(frames, 16)
    expected, threads = quantizer.encode(x), torch.get_num_threads()
    quantizer.backend = "numba"
    torch.set_num_threads(3)
    try:
        assert torch.equal(quantizer.encode(x), expected)
    finally:
        torch.set_num_threads(threads)


def test_frames_are_searched_in_chunks(random_quantizer, monkeypatch):
    quantizer, x = random_quantizer(16, 4, 32), torch.randn(100, 16)
    expected = quantizer.encode(x)
    monkeypatch.setattr("ssl_audio.tokenizers.mvq_search.CPU_CHUNK_FRAMES", 7)
    assert torch.equal(quantizer.encode(x), expected)


def test_missing_numba_is_one_line(random_quantizer, monkeypatch):
    quantizer, x = random_quantizer(8, 2, 4), torch.randn(4, 8)
    expected = quantizer.encode(x)
    monkeypatch.setitem(__import__("sys").modules, "ssl_audio.tokenizers.mvq_numba", None)
    quantizer.backend = "auto"
    assert torch.equal(quantizer.encode(x), expected)
    quantizer.backend = "numba"
    with pytest.raises(ValueError, match=r"pip install ssl-audio\[fast\]"):
        quantizer.encode(x)


def test_benchmark_runs(benchmark):
    args = "--dim 16 --num-codebooks 2 --frames 30 --refine-iters 2 --train-iters 4"
    ratios = benchmark.main([*args.split(), "--train-batch", "64"])
    assert ratios.keys() == {"torch", "numba"}
