from __future__ import annotations

import numpy as np

from ssl_audio.rng import sample_generator


def test_same_arguments_same_numbers() -> None:
    first = sample_generator(3, "time_mask", 11).random(8)
    np.testing.assert_array_equal(first, sample_generator(3, "time_mask", 11).random(8))


def test_every_argument_matters() -> None:
    arguments = [
        (3, "time_mask", 11),
        (4, "time_mask", 11),
        (3, "mixing", 11),
        (3, "time_mask", 12),
    ]
    draws = {sample_generator(*each).random() for each in arguments}
    assert len(draws) == len(arguments)


def test_neighbouring_indices_are_independent() -> None:
    draws = np.array([sample_generator(0, "x", index).random(2) for index in range(2000)])
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.08
    assert abs(draws.mean() - 0.5) < 0.03
