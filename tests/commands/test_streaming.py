from __future__ import annotations

import argparse
import json

import pytest

from ssl_audio.commands.streaming import add_streaming_options, list_skipped


def test_windows_fit_the_memory_that_a_batch_has():
    parser = argparse.ArgumentParser()
    add_streaming_options(parser)
    options = parser.parse_args([])
    assert options.device is None
    assert 2 * options.context_sec < options.window_sec <= options.batch_sec
    assert parser.parse_args(["--window-sec", "8"]).window_sec == 8.0


def test_what_was_skipped_is_listed_until_nothing_is(tmp_path):
    path = tmp_path / "out" / "skipped.json"
    list_skipped(path, {"a.wav": "not audio"}, 3)
    assert json.loads(path.read_text()) == {"a.wav": "not audio"}
    list_skipped(path, {}, 4)  # a second run could read it
    assert not path.exists()


def test_nothing_at_all_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="nothing could be used: not audio"):
        list_skipped(tmp_path / "x.json", {"a.wav": "not audio"}, 0)
    with pytest.raises(ValueError, match="there is no audio in the input"):
        list_skipped(tmp_path / "x.json", {}, 0)
