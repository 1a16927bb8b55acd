"""The compiled and the plain segmentation against the algorithm as it is written."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_audio.tokenizers.syllables import segment_means, segment_syllables


@pytest.fixture(scope="module")
def bench():
    path = Path(__file__).parents[2] / "benchmarks" / "sylber.py"
    spec = importlib.util.spec_from_file_location("bench_sylber", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def utterances(bench):
    return [bench.syllable_like(150 + 7 * seed, 24, seed) for seed in range(12)]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize(("norm", "merge"), [(2.6, 0.8), (0.0, 0.5), (5.5, 0.95), (2.6, -1.0)])
def test_segments_of_the_straightforward_algorithm(bench, utterances, backend, norm, merge):
    for x in utterances:
        expected = bench.straightforward_segments(x, norm, merge)
        np.testing.assert_array_equal(segment_syllables(x, norm, merge, backend=backend), expected)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
class TestEdges:
    @pytest.mark.parametrize("num_frames", [0, 1, 40])
    def test_silence_has_no_segments(self, backend, num_frames):
        found = segment_syllables(np.zeros((num_frames, 8)), 1.0, 0.8, backend=backend)
        assert found.shape == (0, 2)
        assert found.dtype == np.int64

    def test_one_speech_frame(self, backend):
        assert segment_syllables(np.ones((1, 8)), 1.0, 0.8, backend=backend).tolist() == [[0, 1]]

    def test_a_frame_with_nan_is_silence(self, backend):
        x = np.ones((9, 8), np.float32)
        x[4, 2] = np.nan
        assert segment_syllables(x, 1.0, 0.8, backend=backend).tolist() == [[0, 4], [5, 9]]

    def test_zero_vectors_that_count_as_speech(self, backend):
        found = segment_syllables(np.zeros((5, 4)), 0.0, 0.5, backend=backend)
        assert (found[:, 0] < found[:, 1]).all()

    def test_a_counter_that_is_reset_gives_the_mean_of_the_segment(self, backend):
        # Turning slowly by 8 degrees a frame: after the first split the onset-anchored template
        # stays at its onset for long, the running mean follows.
        angles = np.deg2rad(8.0) * np.arange(60)
        x = 5 * np.stack([np.cos(angles), np.sin(angles)], 1)
        anchored = segment_syllables(x, 1.0, 0.8, backend=backend)
        following = segment_syllables(x, 1.0, 0.8, reset_counter=True, backend=backend)
        assert len(following) < len(anchored)

    def test_short_segments_join_the_more_similar_neighbour(self, backend):
        a, b = np.array([5.0, 0, 0]), np.array([0, 5.0, 0])
        like_b = np.array([0, 4.0, 3.0])
        x = np.concatenate([np.tile(v, (n, 1)) for v, n in ((a, 10), (like_b, 2), (b, 10))])
        alone = segment_syllables(x, 1.0, 0.9, backend=backend)
        assert alone.tolist() == [[0, 10], [10, 12], [12, 22]]
        joined = segment_syllables(x, 1.0, 0.9, min_frames=4, min_similarity=0.5, backend=backend)
        assert joined.tolist() == [[0, 10], [10, 22]]
        strict = segment_syllables(x, 1.0, 0.9, min_frames=4, min_similarity=0.85, backend=backend)
        assert strict.tolist() == alone.tolist()

    def test_minus_one_joins_opposites_in_spite_of_rounding(self, backend):
        x = np.random.default_rng(0).normal(0, 1e3, (90, 1))
        assert segment_syllables(x, 0.0, -1.0, backend=backend).tolist() == [[0, 90]]
        options = {"min_frames": 99, "min_similarity": -1, "backend": backend}
        assert segment_syllables(x, 0.0, 0.9, **options).tolist() == [[0, 90]]

    def test_short_segments_between_silences_stay(self, backend):
        x = np.zeros((9, 4), np.float32)
        x[4] = 5
        found = segment_syllables(x, 1.0, 0.8, min_frames=4, min_similarity=-1, backend=backend)
        assert found.tolist() == [[4, 5]]


def test_backends_agree_on_the_options(utterances):
    for x in utterances:
        for options in ({"reset_counter": True}, {"min_frames": 5, "min_similarity": 0.2}):
            plain, compiled = (
                segment_syllables(x, 2.6, 0.8, **options, backend=backend)
                for backend in ("numpy", "numba")
            )
            np.testing.assert_array_equal(plain, compiled)


def test_a_tensor_gives_a_tensor():
    found = segment_syllables(torch.ones(6, 4, dtype=torch.bfloat16), 1.0, 0.8)
    assert torch.equal(found, torch.tensor([[0, 6]]))


def test_segment_means():
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    found = segment_means(x, np.array([[0, 2], [3, 6]]))
    np.testing.assert_array_equal(found, [[1, 2], [8, 9]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm_threshold": float("nan")}, "norm_threshold=nan"),
        ({"norm_threshold": -1.0}, "norm_threshold=-1.0"),
        ({"merge_threshold": 1.5}, "merge_threshold=1.5"),
        ({"min_similarity": 2.0}, "min_similarity=2.0"),
        ({"min_frames": -1}, "min_frames=-1"),
        ({"backend": "cuda"}, "backend='cuda'"),
        ({"features": np.ones(3)}, r"shape \(3,\)"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    defaults = {"features": np.ones((3, 4)), "norm_threshold": 1.0, "merge_threshold": 0.8}
    with pytest.raises(ValueError, match=message):
        segment_syllables(**(defaults | arguments))
