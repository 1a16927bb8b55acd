from __future__ import annotations

import numpy as np
import pytest

from ssl_audio import audio
from ssl_audio.probes.xares.tars import read_tars


def test_samples_come_in_order_and_read_their_own_audio(tars, tmp_path):
    waves = {"a/x": tars.sound("low", 0.2), "b/x": tars.sound("high", 0.3)}
    content = [m for name, w in waves.items() for m in tars.members(name, w, {"n": name}, tmp_path)]
    path = tars.write(tmp_path / "t.tar", [("note.txt", b"no sample"), *content])
    samples = read_tars([path])
    assert [sample.label["n"] for sample in samples] == list(waves)
    assert len({sample.id for sample in samples}) == 2
    for sample, wave in zip(samples, waves.values(), strict=True):
        assert sample.duration_sec == len(wave) / 16_000
        np.testing.assert_allclose(sample.read(0.1, 0.05), wave[1600:2400], atol=1e-4)


def test_a_sample_without_label_or_audio_is_none(tars, tmp_path):
    whole = tars.members("whole", tars.sound("low", 0.1), {"n": 1}, tmp_path)
    parts = [("mute.json", b"{}"), ("unlabelled.wav", whole[0][1])]
    (sample,) = read_tars([tars.write(tmp_path / "t.tar", [*parts, *whole])])
    assert sample.id == "t.tar:whole"


def test_broken_tars_are_named(tars, tmp_path):
    content = tars.members("x", tars.sound("low", 0.5), {"n": 1}, tmp_path)
    path = tars.write(tmp_path / "t.tar", content)
    for data, message in (
        (b"no tar at all" * 100, "not a complete tar"),
        (path.read_bytes()[:3000], "not a complete tar"),
    ):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=message) as error:
            read_tars([path])
        assert "t.tar" in str(error.value)
    with pytest.raises(ValueError, match="no sample"):
        read_tars([tars.write(path, content[:1])])
    with pytest.raises(ValueError, match=r"x\.json is not JSON"):
        read_tars([tars.write(path, [content[0], ("x.json", b"{")])])


def test_audio_that_is_none_says_which_sample(tars, tmp_path):
    (sample,) = read_tars([tars.write(tmp_path / "t.tar", [("x.wav", b"text"), ("x.json", b"{}")])])
    with pytest.raises(audio.AudioError, match=r"t\.tar:x"):
        _ = sample.duration_sec
