from __future__ import annotations

import pytest

from ssl_audio.probes.xares.task import read_task


def test_ours_never_validates_with_test(root, table):
    for name in table:
        task = read_task(root, name, table[name], "ours")
        for rotation in task.rotations:
            ids = [{s.id for split in part for s in task.splits[split]} for part in rotation]
            train, valid, test = ids
            assert train
            assert valid
            assert test
            assert len(train | valid | test) == len(train) + len(valid) + len(test)
        assert task.labels == ("high", "low", "mid")


def test_compat_validates_with_test_where_xares_does(root, table):
    folds = read_task(root, "folds", table["folds"], "compat")
    assert [rotation.valid == rotation.test for rotation in folds.rotations] == [True] * 3
    assert {len(rotation.train) for rotation in folds.rotations} == {2}
    events = read_task(root, "events", table["events"], "compat")
    assert events.splits["valid"] == events.splits["test"]
    tones = read_task(root, "tones", table["tones"], "compat")
    assert tones.splits["valid"] != tones.splits["test"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("absent", {}, r"no folder .*absent; zenodo\.org/records/1 "),
        ("tones", {"valid": "dev*.tar"}, r"tones: no dev\*\.tar"),
        ("tones", {"label": "pitch"}, "clip0: its JSON has no 'pitch'"),
        ("tones", {"classes": 2}, "3 labels under 'tone', the task has 2"),
        ("events", {"start": "begin"}, "clip0: its JSON is no list of events with .* 'begin'"),
        ("tones", {"kind": "frames", "start": "a", "end": "b"}, "clip0: .* no list of events"),
    ],
)
def test_what_does_not_fit_is_one_line(root, table, name, change, message):
    row = table.get(name, table["tones"]) | change
    with pytest.raises(ValueError, match=message) as error:
        read_task(root, name, row)
    assert "\n" not in str(error.value)


def test_multilabel_clips(root, table):
    row = table["tones"] | {"kind": "multilabel", "metric": "mAP"}
    task = read_task(root, "tones", row)
    sample = task.splits["test"][0]
    sample.label["tone"] = "low;mid"
    assert task.labels_of(sample) == ["low", "mid"]
