from __future__ import annotations

import numpy as np
import pytest

from ssl_audio import audio
from ssl_audio.probes.folder import FolderLimits, folder_suite
from ssl_audio.probes.runner import probe_sources
from ssl_audio.probes.sources import LogMelFrames
from ssl_audio.probes.table import markdown_table
from ssl_audio.probes.token_suite import probe_tokens
from ssl_audio.tokenizers import RandomProjectionTokenizer


@pytest.fixture
def root(tmp_path):
    """Task ``words`` with whole clips and task ``phones`` with segments of the same files."""
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        words, phones = ["path,label,speaker"], ["path,label,start,end,speaker"]
        for index in range(6):
            path = f"probes/words/audio/{split}{index}.wav"
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            audio.write(tmp_path / path, rng.uniform(-0.1, 0.1, 4000).astype("f4"), 8000)
            words.append(f"{path},w{index % 2},s")
            phones += [f"{path},{p},{0.1 * i},{0.1 * i + 0.1},s" for i, p in enumerate("aabc")]
        for name, lines in (("words", words), ("phones", phones)):
            (tmp_path / "probes" / name).mkdir(exist_ok=True)
            (tmp_path / "probes" / name / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_reads_clips_and_segments(root):
    suite = folder_suite(root)
    assert {task.name: task.unit for task in suite.tasks} == {
        "words": "clip",
        "phones": "segment",
        "phones_boundaries": "boundary",
    }
    words = suite.only(["words"]).tasks[0].examples["valid"]
    assert [e.label for e in words] == ["w0", "w1"] * 3
    clip = suite.clips[words[0].clip]
    assert clip.duration_sec == 0.5
    assert folder_suite(root / "probes").fingerprint() == suite.fingerprint()
    assert [task.name for task in folder_suite(root, ["phones"]).tasks] == ["phones"]


def test_limits(root):
    suite = folder_suite(root, None, FolderLimits(4, 2, 2, max_segment_labels=2))
    tasks = {task.name: task.examples for task in suite.tasks}
    assert [len(tasks["words"][s]) for s in ("train", "valid", "test")] == [4, 2, 2]
    assert {e.label for e in tasks["phones"]["train"]} == {"a", "b"}
    assert len({e.clip for e in tasks["phones"]["train"]}) == 4


def test_a_bad_file_is_listed_and_left_out(root):
    (root / "probes/words/audio/train0.wav").write_text("text")
    suite = folder_suite(root)
    assert len(suite.left_out) == 1
    assert "train0.wav: not readable as audio" in suite.left_out[0]
    assert all(len(task.examples["train"]) % 5 == 0 for task in suite.tasks)
    results = probe_sources({"log-mel": LogMelFrames()}, suite)
    assert list(suite.left_out) == results["warnings"]
    assert set(results["scores"]["log-mel"]) == {"words", "phones", "phones_boundaries"}


def test_a_task_without_a_split_leaves_the_others(root):
    (root / "probes/phones/test.csv").unlink()
    suite = folder_suite(root)
    assert [task.name for task in suite.tasks] == ["words"]
    assert "task phones: " in suite.left_out[0]
    assert "test.csv: missing; a task needs train.csv, valid.csv and test.csv" in suite.left_out[0]
    assert suite.failed == ("phones",)
    asked = folder_suite(root, ["phones_boundaries", "words"])
    assert (asked.failed, asked.left_out) == (suite.failed, suite.left_out)
    results = probe_sources({"log-mel": LogMelFrames()}, suite)
    assert results["failed"] == ["phones"]
    assert "| phones | failed |" in markdown_table(results)
    tokens = probe_tokens(RandomProjectionTokenizer(codebook_size=8), suite, None)
    assert tokens["failed"] == ["phones"]


def test_bad_layouts_end_in_one_line(root, tmp_path):
    with pytest.raises(ValueError, match=r"no probes/TASK/train\.csv here"):
        folder_suite(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no task 'tone'; tasks: phones, words"):
        folder_suite(root, ["tone"])
    table = root / "probes/phones/test.csv"
    good = table.read_text()
    table.write_text(good.replace("0.1,0.2", "0.1,soon"))
    with pytest.raises(ValueError, match=r"test\.csv:3: start and end must be seconds"):
        folder_suite(root, ["phones"])
    table.write_text(good.replace(",0.1,0.2,", ",0.2,0.1,"))
    with pytest.raises(ValueError, match=r"needs 0 <= start < end, got 0\.2 and 0\.1"):
        folder_suite(root, ["phones"])
    table.write_text(good.replace("label", "class"))
    with pytest.raises(ValueError, match="no column 'label' in the header"):
        folder_suite(root, ["phones"])
    table.unlink()
    with pytest.raises(ValueError, match="missing; a task needs"):
        folder_suite(root, ["phones"])


def test_recorded_tasks_are_read(data_dir):
    suite = folder_suite(data_dir, ["digits_en", "syllables_de"], FolderLimits(20, 10, 10))
    digits, syllables = suite.tasks
    assert [t.name for t in folder_suite(data_dir, ["syllables_de_boundaries"]).tasks] == [
        "syllables_de_boundaries"
    ]
    assert (digits.unit, syllables.unit) == ("clip", "segment")
    assert {e.label for e in digits.examples["train"]} == set("0123456789")
    assert suite.left_out == ()
    results = probe_sources({"log-mel": LogMelFrames()}, suite)
    assert results["scores"]["log-mel"]["digits_en"]["num_train"] == 20
