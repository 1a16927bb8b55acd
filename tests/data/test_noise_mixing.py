"""Draws that depend on seed and place alone, pieces of noise, and gains."""

from __future__ import annotations

import pytest
import torch

from ssl_audio.data.noise_mixing import NoiseMixing, draw_noise, noise_pieces

INDEX = torch.tensor([5, 17, 2])
ALWAYS = NoiseMixing(1.0, 0.0, (0.0, 0.7), (0.05, 0.7), 0.2)


def test_draws_are_functions_of_seed_and_place():
    whole, part = draw_noise(INDEX, 0, "train"), draw_noise(INDEX[1:], 0, "train")
    for name in ("augment", "utterance", "shift", "side", "noise_gain", "utterance_gain"):
        assert torch.equal(getattr(whole, name)[1:], getattr(part, name))
        assert ((getattr(whole, name) >= 0) & (getattr(whole, name) < 1)).all()
    assert part.other.max() < 2
    assert not torch.equal(draw_noise(INDEX, 1, "train").augment, whole.augment)
    assert not torch.equal(draw_noise(INDEX, 0, "valid").augment, whole.augment)


def test_noise_is_cropped_or_placed_in_silence():
    short, long = torch.arange(1.0, 5.0), torch.arange(1.0, 101.0)
    for piece in noise_pieces([short], INDEX, 20, 0, "noise"):
        start = int(piece.nonzero()[0])
        assert torch.equal(piece[start : start + 4], short)
        assert piece.count_nonzero() == 4
    for piece in noise_pieces([long], INDEX, 20, 0, "noise"):
        assert torch.equal(piece, piece[0] + torch.arange(20.0))
    one = noise_pieces([long], INDEX[1:2], 20, 0, "noise")
    assert torch.equal(one[0], noise_pieces([long], INDEX, 20, 0, "noise")[1])


def test_gains_lie_in_their_ranges_and_nothing_is_normalised_again():
    torch.manual_seed(0)
    speech, noise = torch.randn(3, 400), torch.randn(3, 400)
    draws = draw_noise(INDEX, 0, "train")
    gain = (ALWAYS(speech, noise, draws) - speech) / noise
    assert (gain.std(1) < 1e-3).all()
    assert ((gain.mean(1) > 0.05) & (gain.mean(1) < 0.7)).all()
    assert torch.equal(
        NoiseMixing(0.0, 0.5, (0, 0.7), (0.05, 0.7), 0.2)(speech, noise, draws), speech
    )


def test_without_noise_every_interferer_is_an_utterance():
    torch.manual_seed(0)
    speech = torch.randn(3, 400)
    draws = draw_noise(INDEX, 0, "train")
    added = ALWAYS(speech, None, draws) - speech
    for row, other in zip(added, draws.other.tolist(), strict=True):
        kept = row != 0
        gain = row[kept] / speech[other][kept]
        assert 0.3 < kept.float().mean() <= 1
        assert 0.05 < gain.mean() < 0.2
        assert kept[0] != kept[-1] or kept.all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.5, 0.5, (0, 0.7), (0.05, 0.7), 0.2), "augment_prob"),
        ((0.5, 0.5, (0, 0.7), (0.3, 0.7), 0.2), "max_utterance_gain"),
        ((0.5, 0.5, (0.7, 0.1), (0.05, 0.7), 0.2), "shift_range"),
    ],
)
def test_ranges_that_are_none(arguments, message):
    with pytest.raises(ValueError, match=message):
        NoiseMixing(*arguments)
