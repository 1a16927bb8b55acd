from __future__ import annotations

import datasets
import numpy as np
import pytest

from ssl_audio import audio
from ssl_audio.data.demo import corpus as demo_corpus
from ssl_audio.probes.demo import demo_suite, phone_frames
from ssl_audio.probes.suites import open_suite


@pytest.fixture
def corpus(tmp_path):
    """Two spoken clips, an event and a note per split, in the columns of the demo corpus."""
    sound = audio.encode(np.full(8000, 0.1, dtype=np.float32), 16_000, "FLAC")
    rows = []
    for split in ("train", "valid", "test"):
        common = {
            "audio": {"bytes": sound, "path": None},
            "num_samples": 8000,
            "split": split,
        }
        labels = [
            {"language": "de", "voice": "m1", "domain": "speech"},
            {"language": "fr", "voice": "f1", "domain": "speech"},
            {"event": "siren", "domain": "audio"},
            {"instrument": "organ", "pitch": 60, "domain": "audio"},
        ]
        for index, label in enumerate(labels):
            phones = [{"label": "a", "start_sec": 0.1, "end_sec": 0.2}] if index < 2 else []
            clip = {"id": f"{split}{index}", "phones": phones}
            rows.append({**common, **label, **clip})
    demo_corpus._save(rows, tmp_path / "corpus", fingerprint="test")
    return tmp_path / "corpus"


def test_each_task_holds_the_clips_with_its_label(corpus):
    suite = demo_suite(corpus)
    sizes = {task.name: len(task.examples["train"]) for task in suite.tasks}
    assert sizes == {
        "language": 2,
        "voice": 2,
        "sound_event": 1,
        "pitch": 1,
        "instrument": 1,
        "phones": 10,
        "phones_boundaries": 12,
    }
    assert suite.tasks[3].examples["test"][0].label == "60"
    assert suite.clips["train0"].duration_sec == 0.5
    assert [task.name for task in demo_suite(corpus, ["pitch"]).tasks] == ["pitch"]
    assert len(demo_suite(corpus, max_clips=1).clips) == 6


def test_frames_of_a_phone_lie_on_the_grid_with_their_centres_inside():
    phones = [
        {"label": "sil", "start_sec": 0.0, "end_sec": 0.1},
        {"label": "a", "start_sec": 0.105, "end_sec": 0.152},
        {"label": "t", "start_sec": 0.152, "end_sec": 0.19},
    ]
    frames = list(phone_frames("c", phones))
    assert [e.label for e in frames] == ["a", "a", "a", "t"]
    centres = [(e.start_sec + e.end_sec) / 2 for e in frames]
    np.testing.assert_allclose(centres, [0.11, 0.13, 0.15, 0.17])


def test_bad_corpora_end_in_one_line(corpus, tmp_path):
    with pytest.raises(ValueError, match="no demo corpus here"):
        demo_suite(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="not a saved data set"):
        demo_suite(tmp_path / "empty")
    data = datasets.load_from_disk(str(corpus)).remove_columns("pitch")
    data.save_to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match="no column 'pitch'"):
        demo_suite(tmp_path / "other")


def test_open_suite_names_what_there_is(corpus):
    assert open_suite("demo", corpus, ["voice"]).tasks[0].name == "voice"
    with pytest.raises(ValueError, match="unknown probe suite 'hear'; suites: demo, folder"):
        open_suite("hear", corpus)
    with pytest.raises(ValueError, match="at least 4"):
        open_suite("demo", corpus, max_clips=1)
