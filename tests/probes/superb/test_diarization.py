"""Speaker diarization: labels, errors, tuning, learning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssl_audio import audio
from ssl_audio.probes.sources import EncoderLayers
from ssl_audio.probes.superb.diarization import SpeakerDiarization, frame_labels
from ssl_audio.probes.superb.layers import LayerStack
from ssl_audio.probes.superb.mixtures import Turn
from ssl_audio.probes.superb.task import Recipe, Settings

OPTIONS = {
    "speakers": 2,
    "chunk_sec": 2.0,
    "hidden": 16,
    "thresholds": [0.3, 0.5, 0.7],
    "median_frames": [1, 11],
}
TONES = {"high": 1500.0, "low": 300.0}


def write_split(folder: Path, count: int, rng: np.random.Generator) -> None:
    folder.mkdir()
    tables: dict[str, list[str]] = {
        name: [] for name in ("wav.scp", "segments", "utt2spk", "reco2dur")
    }
    time = np.arange(2 * 16_000) / 16_000
    for number in range(count):
        samples = 0.002 * rng.standard_normal(len(time))
        for speaker, tone in TONES.items():
            start = rng.uniform(0.1, 0.8)
            stop = start + rng.uniform(0.5, 1.0)
            samples += 0.3 * np.sin(2 * np.pi * tone * time) * ((time >= start) & (time < stop))
            name = f"{number}-{speaker}"
            tables["segments"].append(f"{name} r{number} {start:.3f} {stop:.3f}")
            tables["utt2spk"].append(f"{name} {speaker}")
        audio.write(folder / f"r{number}.wav", samples.astype(np.float32), 16_000)
        tables["wav.scp"].append(f"r{number} r{number}.wav")
        tables["reco2dur"].append(f"r{number} 2.0")
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("diarization"), np.random.default_rng(0)
    for split, count in (("train", 8), ("dev", 4), ("test", 4)):
        write_split(root / split, count, rng)
    return root


@pytest.mark.parametrize("protocol", ["ours", "compat"])
def test_speakers_are_told_apart(folder: Path, tiny_encoder, protocol) -> None:
    recipe = Recipe("", (1e-2,), 100, 50, batch_size=4, options=OPTIONS)
    task = SpeakerDiarization(folder, recipe, 0)
    before = dict(vars(task))
    layers = LayerStack(EncoderLayers(tiny_encoder), match_lengths=protocol == "compat")
    (fold,) = task.run(layers, Settings(protocol=protocol)).folds
    assert fold.scores["der"] < 0.3
    assert fold.scores["accuracy"] > 0.85
    best = max if protocol == "compat" else min  # by frame accuracy, by error rate
    values = [row["validation"] for row in fold.grid]
    assert fold.chosen["step"] == fold.grid[values.index(best(values))]["step"]
    assert vars(task) == before  # results are kept under what the constructor has read
    if protocol == "ours":
        assert fold.chosen["tuned"][0] in OPTIONS["thresholds"]


def test_labels_are_rounded_to_frames() -> None:
    labels = frame_labels([Turn(1, 0.02, 0.05), Turn(0, 0.0, 9.0)], 4, 50.0, 2)
    assert labels.astype(int).tolist() == [[1, 0], [1, 1], [1, 0], [1, 0]]


def test_order_of_speakers_does_not_count(folder: Path) -> None:
    task = SpeakerDiarization(folder, Recipe("", options=OPTIONS), 0)
    task.frame_rate = 50.0
    utterance = task.splits["test"][0]
    truth = frame_labels(utterance.target, 100, 50.0, 2).astype(float)
    spoken_sec = sum(turn.stop_sec - turn.start_sec for turn in utterance.target)
    for found in (truth, truth[:, ::-1]):
        counted = task.counts(utterance, found, (0.5, 1))
        assert counted["der"][0] < 0.05  # frames are shorter than 20 ms off at each of four ends
        assert counted["der"][1] == pytest.approx(spoken_sec, abs=0.011)
        assert counted["accuracy"] == (100.0, 100.0)
    missed, spoken = task.counts(utterance, 0 * truth, (0.5, 1))["der"]
    assert missed == spoken


def test_compat_chooses_the_threshold_on_test(folder: Path) -> None:
    task = SpeakerDiarization(folder, Recipe("", options=OPTIONS), 0)
    task.frame_rate = 50.0
    predictions = {
        u.id: 0.4 * frame_labels(u.target, 100, 50.0, 2)  # right, but only above 0.3
        for u in task.splits["test"]
    }
    task.protocol = "ours"
    assert task.tune("valid", {**predictions, **_as_valid(task)})[0] == 0.3
    assert task.evaluate("test", predictions, (0.5, 1))[0]["der"] == 1.0
    task.protocol = "compat"
    assert task.tune("valid", predictions) == (0.5, 1)
    assert task.evaluate("test", predictions, (0.5, 1))[0]["der"] < 0.03


def _as_valid(task: SpeakerDiarization) -> dict[str, np.ndarray]:
    return {u.id: 0.4 * frame_labels(u.target, 100, 50.0, 2) for u in task.splits["valid"]}


def test_three_speakers_are_too_many(folder: Path) -> None:
    with pytest.raises(ValueError, match="more than 1 speakers"):
        SpeakerDiarization(folder, Recipe("", options={**OPTIONS, "speakers": 1}), 0)
