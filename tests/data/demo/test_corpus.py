"""The corpus on disk: columns, labels, splits, determinism, bad input."""

from __future__ import annotations

import io
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile

from ssl_audio.data.demo import build_demo_corpus
from ssl_audio.data.demo import corpus as corpus_module
from ssl_audio.data.demo.corpus import corpus_tasks
from ssl_audio.data.demo.espeak import MISSING

MINUTES = 2.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("demo")
    return build_demo_corpus(cache, seed=3, minutes=MINUTES, show_progress=False)


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict]:
    return list(datasets.load_from_disk(str(folder)))


def test_same_seed_gives_same_bytes_and_another_seed_does_not(folder, tmp_path):
    again = build_demo_corpus(tmp_path, seed=3, minutes=MINUTES, show_progress=False)
    other = build_demo_corpus(tmp_path, seed=4, minutes=MINUTES, show_progress=False)
    files = sorted(file.name for file in folder.iterdir())
    assert files == sorted(file.name for file in again.iterdir())
    for name in files:
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name
    first, second = (datasets.load_from_disk(str(path)) for path in (again, other))
    assert first[0]["audio"]["bytes"] != second[0]["audio"]["bytes"]


def test_existing_corpus_is_not_built_again(folder, monkeypatch):
    monkeypatch.setattr(corpus_module, "_run_tasks", lambda *_: pytest.fail("built again"))
    assert build_demo_corpus(folder.parent, seed=3, minutes=MINUTES) == folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_audio_decodes_to_the_announced_length(rows):
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        samples, rate = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
        assert rate == row["sample_rate_hz"] == 16_000
        assert samples.shape == (row["num_samples"],)
        assert 0.003 < np.sqrt(np.mean(samples**2)) < 0.5
        assert np.abs(samples).max() < 0.98
        limits = (1.0, 10.0) if row["domain"] == "speech" else (0.8, 5.0)
        assert limits[0] <= row["num_samples"] / 16_000 <= limits[1]


def test_variety_and_length_of_the_default_corpus(rows):
    tasks = corpus_tasks(30.0)
    kinds = defaultdict(set)
    for function, name, _ in tasks:
        kinds[function.__name__].add(name)
    assert len(kinds["language_clips"]) >= 12
    assert len(kinds["event_clips"]) >= 12
    assert len(kinds["note_clips"]) >= 8
    seconds = {domain: _mean_seconds(rows, domain) for domain in ("speech", "audio")}
    clips = {
        domain: sum(n for f, _, n in tasks if (f.__name__ == "language_clips") == is_speech)
        for domain, is_speech in (("speech", True), ("audio", False))
    }
    minutes = sum(seconds[domain] * clips[domain] for domain in clips) / 60
    assert 25 < minutes < 37


def test_labels_belong_to_their_domain(rows):
    for row in rows:
        is_speech = row["domain"] == "speech"
        assert row["split"] in ("train", "valid", "test")
        for name in ("language", "voice", "text"):
            assert (row[name] is not None) == is_speech
        assert (row["event"] is not None) + (row["pitch"] is not None) + is_speech == 1
        assert (row["pitch"] is None) == (row["instrument"] is None)
        for name in ("words", "phones", "nuclei"):
            assert bool(row[name]) == is_speech


def test_spans_tile_the_utterance(rows):
    for row in rows:
        if row["domain"] != "speech":
            continue
        phones, duration = row["phones"], row["num_samples"] / 16_000
        assert phones[0]["start_sec"] >= 0
        assert phones[-1]["end_sec"] <= duration + 1e-3
        for left, right in pairwise(phones):
            assert left["start_sec"] < left["end_sec"] == pytest.approx(right["start_sec"])
        assert all(nucleus in phones for nucleus in row["nuclei"])
        starts = {phone["start_sec"] for phone in phones}
        assert all(word["start_sec"] in starts for word in row["words"])
        assert 1 < len(row["nuclei"]) / len(row["words"]) * 2 < 12


def test_no_sentence_is_in_two_splits(rows):
    splits = defaultdict(set)
    for row in rows:
        if row["text"]:
            splits[row["text"]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"minutes": 0}, "minutes=0"), ({"minutes": 1e4}, "minutes="), ({"seed": -1}, "seed=-1")],
)
def test_bad_settings_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build_demo_corpus(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_missing_extra_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError) as caught:
        build_demo_corpus(tmp_path)
    assert str(caught.value) == MISSING
    assert "ssl-audio[demo]" in MISSING


def test_failure_while_saving_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(clips, folder, fingerprint):
        folder.mkdir()
        raise OSError("No space left on device")

    monkeypatch.setattr(corpus_module, "_run_tasks", lambda *_: [])
    monkeypatch.setattr(corpus_module, "_save", full_disk)
    with pytest.raises(OSError, match="No space"):
        build_demo_corpus(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_slower_of_two_builders_accepts_the_result_of_the_faster(tmp_path, monkeypatch):
    def save_after_the_other(clips, folder, fingerprint):
        folder.mkdir()
        (folder / "late").touch()
        other = tmp_path / fingerprint
        other.mkdir()
        (other / "early").touch()

    monkeypatch.setattr(corpus_module, "_run_tasks", lambda *_: [])
    monkeypatch.setattr(corpus_module, "_save", save_after_the_other)
    path = build_demo_corpus(tmp_path)
    assert [file.name for file in path.iterdir()] == ["early"]
    assert list(tmp_path.iterdir()) == [path]


def _mean_seconds(rows: list[dict], domain: str) -> float:
    return float(np.mean([r["num_samples"] for r in rows if r["domain"] == domain])) / 16_000
