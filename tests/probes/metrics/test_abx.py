from __future__ import annotations

import itertools
import math
import sys
from dataclasses import replace

import numpy as np
import pytest

from ssl_audio.probes.metrics.abx import AbxItem, AbxSettings, abx_error
from ssl_audio.probes.metrics.abx_libri import item_text


def corpus(noise: float, seed: int = 0, tokens: int = 4, speakers: int = 3):
    """Phones a, e, i in two contexts; each has a direction, every token is 3 to 6 frames long."""
    rng = np.random.default_rng(seed)
    directions = dict(zip("aei", rng.standard_normal((3, 6)), strict=True))
    features, items = {}, []
    for speaker in range(speakers):
        frames, file = [], f"s{speaker}"
        for phone, context, _ in itertools.product("aei", ("x y", "y x"), range(tokens)):
            length = int(rng.integers(3, 7))
            start = sum(map(len, frames))
            frames.append(directions[phone] + noise * rng.standard_normal((length, 6)))
            # Frames whose centres lie half a frame inside.
            items.append(AbxItem(file, start / 50, (start + length + 1) / 50, phone, context, file))
        features[file] = np.concatenate([*frames, np.zeros((1, 6))])
    return features, items


CONDITIONS = [
    {"speaker": speaker, "context": context, "pooling": pooling}
    for speaker in ("within", "across")
    for context in ("within", "any")
    for pooling in ("none", "mean")
]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_between_perfect_and_chance(condition):
    settings = AbxSettings(**condition)
    errors = [
        abx_error(*corpus(noise), frame_rate=50, settings=settings) for noise in (0.05, 1.0, 1e6)
    ]
    assert errors[0] < errors[1] < errors[2]
    assert errors[0] < 0.02
    assert errors[2] == pytest.approx(0.5, abs=0.12)


def test_equal_features_are_half_wrong():
    features, items = corpus(0.0)
    same = {file: np.ones_like(frames) for file, frames in features.items()}
    assert abx_error(same, items, frame_rate=50) == 0.5


def test_draws_are_deterministic_and_limited():
    features, items = corpus(1.0)
    few = AbxSettings(max_group_items=2, max_x_speakers=1, speaker="across")
    first, again = (abx_error(features, items, frame_rate=50, settings=few) for _ in range(2))
    assert first == again
    assert first != abx_error(
        features, items, frame_rate=50, settings=AbxSettings(speaker="across")
    )


def test_no_triple_is_nan():
    features, items = corpus(1.0, tokens=1)
    assert math.isnan(abx_error(features, items, frame_rate=50))
    one_speaker = [item for item in items if item.speaker == "s0"]
    across = AbxSettings(speaker="across")
    assert math.isnan(abx_error(features, one_speaker, frame_rate=50, settings=across))
    assert math.isnan(abx_error(features, [], frame_rate=50))


def test_items_shorter_than_a_frame_are_left_out():
    features, items = corpus(0.5)
    short = AbxItem("s0", 0.1, 0.101, "a", "x y", "s0")
    assert abx_error(features, [*items, short], frame_rate=50) == abx_error(
        features, items, frame_rate=50
    )


def test_unknown_file_is_named():
    with pytest.raises(ValueError, match="'nowhere', which has no features"):
        abx_error({}, [AbxItem("nowhere", 0, 1, "a", "x y", "s")], frame_rate=50)


def test_the_program_of_the_challenge_gives_the_same_errors():
    pytest.importorskip("zrc_abx2")
    rng = np.random.default_rng(0)
    centres = {phone: rng.standard_normal(6) for phone in "aei"}
    features, items = {}, []
    for number in range(9):
        spoken = rng.choice(list("aei"), 12).tolist()
        around = ["#", *spoken, "#"]
        frames = [centres[phone] + rng.standard_normal((6, 6)) for phone in spoken]
        features[f"a b/{number}.wav"] = np.concatenate(frames).astype(np.float32)
        for i, phone in enumerate(spoken):
            context, speaker = f"{around[i]} {around[i + 2]}", f"speaker {number % 3}"
            items.append(
                AbxItem(f"a b/{number}.wav", 0.12 * i, 0.12 * i + 0.12, phone, context, speaker)
            )
    for speaker, context in itertools.product(("within", "across"), ("within", "any")):
        ours = AbxSettings(speaker=speaker, context=context, max_group_items=1000)
        theirs = replace(ours, backend="libriabx2")
        errors = [abx_error(features, items, frame_rate=50, settings=x) for x in (ours, theirs)]
        assert 0 < errors[0] < 0.5
        assert errors[1] == pytest.approx(errors[0], abs=1e-6)


def test_items_as_the_program_reads_them():
    items = [AbxItem("a/b.wav", 0.5, 0.75, "k", "# i", "speaker one")]
    header, line = item_text(items, {"a/b.wav": "f0"}).splitlines()
    assert len(header.split()) == len(line.split())
    assert line.split() == ["f0", "0.500000", "0.750000", "k", "#", "i", "speaker_one"]


def test_without_the_program_it_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "zrc_abx2", None)
    settings = AbxSettings(backend="libriabx2")
    with pytest.raises(ValueError, match=r"needs pip install 'ssl-audio\[abx\]'"):
        abx_error({}, [], frame_rate=50, settings=settings)
