from __future__ import annotations

import pytest

from ssl_audio.probes.scores import score_tasks, stored


def test_what_is_stored_is_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"ci95": (0.1, 0.2)}

    first = stored(tmp_path, "x", ("settings", 3), make)
    assert first == {"ci95": [0.1, 0.2]}  # as JSON reads it back
    assert stored(tmp_path, "x", ("settings", 3), make) == first
    assert len(made) == 1
    stored(tmp_path, "x", ("settings", 4), make)
    assert len(made) == len(list(tmp_path.glob("x-*.json"))) == 2
    assert stored(None, "x", ("settings", 3), make) == first
    assert len(made) == 3


def test_a_damaged_file_is_made_anew(tmp_path):
    stored(tmp_path, "x", 1, lambda: [1])
    (path,) = tmp_path.iterdir()
    path.write_text("[1")
    assert stored(tmp_path, "x", 1, lambda: [1]) == [1]
    assert stored(tmp_path, "x", 1, lambda: pytest.fail("it is there again")) == [1]


def test_what_fails_leaves_the_others():
    def opened(name):
        if name == "missing":
            raise ValueError("no data")
        return len(name)

    def scored(name, task, source):
        if name == "bad":
            raise ValueError("one class")
        if name == "hard" or (name == "half" and source == "b"):
            raise ValueError("NaN") if source == "b" else RuntimeError("out of memory")
        return {f"{name} row": {"value": task, "warnings": ["a clip is short"]}}

    found = score_tasks(
        ["missing", "fine", "half", "hard", "bad"], dict.fromkeys("ab"), opened, scored
    )
    assert {name: list(rows) for name, rows in found["scores"].items()} == {
        "a": ["fine row", "half row"],
        "b": ["fine row"],
    }
    assert found["failed"] == ["missing", "hard", "bad"]
    assert found["warnings"] == [
        "task missing: no data",
        "task fine: a clip is short",  # of both sources once
        "task half: a clip is short",
        "task half, b: NaN",
        "task hard, a: RuntimeError('out of memory')",
        "task hard, b: NaN",
        "task bad: one class",  # of all sources once
    ]
