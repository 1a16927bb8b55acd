from __future__ import annotations

import math
import wave

import numpy as np
import pytest

from ssl_audio.audio import AudioError
from ssl_audio.probes.abx_task import AbxTask, abx_scores, folder_abx, items_of_phones
from ssl_audio.probes.metrics.abx import AbxSettings
from ssl_audio.probes.recordings import Recording
from ssl_audio.probes.sources import EncoderLayers, LogMelFrames

TONES = {"a": 300.0, "e": 900.0, "i": 2400.0}
PHONE_SEC = 0.12


def spoken(order: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(round(PHONE_SEC * 16_000)) / 16_000
    tones = [0.3 * np.sin(2 * np.pi * TONES[p] * rng.uniform(0.95, 1.05) * time) for p in order]
    samples = np.concatenate(tones)
    return (samples + 0.003 * rng.standard_normal(len(samples))).astype(np.float32)


def phones_of(order: str) -> list[tuple[float, float, str]]:
    return [(i * PHONE_SEC, (i + 1) * PHONE_SEC, phone) for i, phone in enumerate(order)]


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "probes" / "tones"
    folder.mkdir(parents=True)
    lines = ["path,label,start,end,speaker"]
    for index, order in enumerate(("aeiaei", "ieaiea", "eaieai", "iaeiae")):
        with wave.open(str(tmp_path / f"{index}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes((spoken(order, index) * 32767).astype("<i2").tobytes())
        lines += [f"{index}.wav,{p},{a},{b},s{index % 2}" for a, b, p in phones_of(order)]
    (folder / "test.csv").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize("speaker", ["within", "across"])
def test_tones_are_told_apart(corpus, speaker):
    task = folder_abx(corpus, "tones")
    assert len(task.items) == 24
    scores = abx_scores(LogMelFrames(), task, AbxSettings(context="any", speaker=speaker))
    assert scores.errors["log-mel"] < 0.02
    assert scores.failures == ()


def test_each_layer_of_an_encoder(corpus, tiny_encoder):
    task = folder_abx(corpus, "tones")
    scores = abx_scores(EncoderLayers(tiny_encoder), task, AbxSettings(context="any"))
    assert set(scores.errors) == {"0", "1", "2", "output"}
    assert all(0 <= error <= 0.5 for error in scores.errors.values())


def test_lost_files_are_listed(corpus):
    (corpus / "1.wav").write_bytes(b"nothing")
    (corpus / "2.wav").unlink()
    task = folder_abx(corpus, "tones")
    scores = abx_scores(LogMelFrames(), task, AbxSettings(context="any"))
    assert len(scores.failures) == 2
    assert math.isfinite(scores.errors["log-mel"])


def test_a_recording_that_fails_later_takes_its_items_along():
    def broken(start_sec, duration_sec):
        raise AudioError("y: gone")

    def fine(start_sec, duration_sec):
        return spoken("aeiaei", 0)

    items = [
        item for name in ("x", "y") for item in items_of_phones(name, phones_of("aeiaei"), "s")
    ]
    recordings = (Recording("x", 0.72, fine), Recording("y", 0.72, broken))
    scores = abx_scores(
        LogMelFrames(), AbxTask(recordings, tuple(items)), AbxSettings(context="any")
    )
    assert scores.failures == ("y: gone",)
    assert scores.errors["log-mel"] < 0.02


def test_neighbours_are_the_context():
    items = items_of_phones("f", [(0, 1, "a"), (1, 2, "sil"), (2, 3, "e")], "s")
    assert [(item.phone, item.context) for item in items] == [("a", "# sil"), ("e", "sil #")]


def test_bad_tables_are_one_line(corpus):
    with pytest.raises(ValueError, match=r"train.csv: missing"):
        folder_abx(corpus, "tones", "train")
    path = corpus / "probes" / "tones" / "test.csv"
    text = path.read_text()
    path.write_text(text.replace("0.12", "soon", 1))
    with pytest.raises(ValueError, match=r"test.csv:2: start and end must be seconds"):
        folder_abx(corpus, "tones")
    path.write_text(text.replace("speaker", "talker", 1))
    with pytest.raises(ValueError, match="no column 'speaker'"):
        folder_abx(corpus, "tones")
