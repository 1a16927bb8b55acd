"""Text to classes of a CTC head and back."""

from __future__ import annotations

import torch

from ssl_audio.probes.superb.vocabulary import LETTERS, PHONES, Vocabulary, greedy_texts


def test_sizes_are_those_of_s3prl() -> None:
    assert len(Vocabulary(PHONES, " ")) == 74
    assert len(LETTERS) == 28


def test_text_survives_a_round_trip() -> None:
    letters = Vocabulary(LETTERS)
    target = letters.encode("HI TO ÉVE ")
    assert target.tolist()[-1] == 1
    assert letters.text(target.tolist()) == "HI TO <unk>VE"
    phones = Vocabulary(PHONES, " ")
    assert phones.text(phones.encode(("HH", "AY1")).tolist()) == "HH AY1"
    slots = Vocabulary((*LETTERS, "B-city ", " E-city"))
    said = ("I", "N", " ", "B-city ", "U", "L", "M", " E-city")
    assert slots.text(slots.encode(said).tolist()) == "IN B-city ULM E-city"


def test_greedy_decoding_merges_repetitions_before_it_drops_blanks() -> None:
    vocabulary = Vocabulary(("A", "B"))
    a, b = 3, 4
    frames = torch.tensor([[a, a, 0, a, b, b, 1, b], [b, a, 0, 0, 0, 0, 0, 0]])
    logits = torch.nn.functional.one_hot(frames, len(vocabulary)).float()
    assert greedy_texts(logits, torch.tensor([7, 1]), vocabulary) == ["AAB", "B"]
