from __future__ import annotations

import shutil
from dataclasses import dataclass

import pytest

from ssl_audio.probes.task_suite import TaskSuite


@dataclass
class Words(TaskSuite):
    """Each task is a text; its score is the share of one letter."""

    name = "words"
    title = "Words"
    version = 1
    protocols = ("ours", "theirs")

    def open(self, name):
        path = self.root / name
        if not path.is_file():
            raise ValueError(f"{path} is missing")
        return [path, path.read_text()]

    def identity(self, task):
        return task

    def score(self, name, task, source):
        text = task[1]
        task.append("tasks may change while they run")
        value = text.count(source.letter) / len(text)
        return {name: {"metric": "share", "value": value, "ci95": None, "warnings": []}}


class Letter:
    frame_rate = 50.0

    def __init__(self, letter):
        self.letter = self.key = letter


@pytest.fixture
def root(tmp_path):
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "one").write_text("aab")
    return tmp_path / "words"


TABLE = {"one": {}, "two": {}}
SOURCES = {"trained": Letter("a"), "log-mel": Letter("b")}


def test_records_and_what_is_missing(root):
    suite = Words(root, "theirs", layer=3, table=TABLE, not_implemented={"three": "too long"})
    results = suite.run(SOURCES)
    record = results["scores"]["trained"]["one"]
    assert record["value"] == pytest.approx(2 / 3)
    expected = {"suite": "words", "task": "one", "protocol": "theirs", "layer": "3"}
    assert record | expected | {"encoder_hash": "a", "frame_rate_hz": 50.0} == record
    assert (results["failed"], results["absent"], results["warnings"]) == ([], ["two"], [])
    assert results["notes"] == [
        "protocol theirs, layer 3",
        f"not found under {root}: two",
        "three is not implemented: too long",
    ]
    asked = suite.run(SOURCES, ["one", "two"])
    assert (asked["failed"], asked["absent"]) == (["two"], [])
    assert asked["warnings"] == [f"task two: {root / 'two'} is missing"]
    with pytest.raises(ValueError, match="words has no task of Words; expected there: three, two"):
        Words(root, table={"three": {}, "two": {}}).run(SOURCES)
    with pytest.raises(ValueError, match="no Words task 'three'; too long"):
        suite.run(SOURCES, ["three"])


def test_the_key_follows_data_and_settings_but_not_the_place(root, tmp_path):
    cache = tmp_path / "cache"

    def run(folder=root, **options):
        before = set(cache.glob("words-*"))
        suite = Words(folder, cache_dir=cache, table=TABLE, **options)
        fingerprint = suite.run(SOURCES)["suite_fingerprint"]
        return len(set(cache.glob("words-*")) - before), fingerprint

    first = run()
    assert first[0] == 2
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    assert run() == run(moved) == (0, first[1])
    assert run(seed=1) == run(protocol="theirs") == (2, first[1])
    (root / "one").write_text("abb")
    changed = run()
    assert changed[0] == 2
    assert changed[1] != first[1]


def test_the_layer_of_every_fold_is_chosen_on_valid(root):
    nan = float("nan")
    found = {
        "0": [{"validation": 0.5, "test": 0.1}, {"validation": 0.9, "test": 0.2}],
        "1": [{"validation": 0.6, "test": 0.3}, {"validation": nan, "test": 0.4}],
    }
    chosen = Words(root, layer="all", table=TABLE).chosen(found)
    assert [fold["test"] for fold in chosen["folds"]] == [0.3, 0.2]
    assert [fold["layer"] for fold in chosen["folds"]] == ["1", "0"]
    assert chosen["folds"][0]["layers"] == {"0": 0.5, "1": 0.6}
    assert chosen["layer"] == "1, 0"
    assert chosen["grid"]["0"] == [pytest.approx(0.7)]
    one = Words(root, table=TABLE)
    assert one.chosen({"last": found["0"]}) == {"folds": found["0"]}


def test_what_a_user_can_get_wrong(root):
    with pytest.raises(ValueError, match="unknown protocol 'mine'; use ours or theirs"):
        Words(root, "mine", table=TABLE)
    with pytest.raises(ValueError, match="does not exist; give the folder with Words's data"):
        Words(root / "nothing", table=TABLE)
