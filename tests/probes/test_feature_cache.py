"""A killed suite goes on, and a damaged file of the cache is made anew."""

from __future__ import annotations

import json

import pytest
import torch

from ssl_audio.probes import feature_cache, runner
from ssl_audio.probes.runner import probe_sources
from ssl_audio.probes.sources import EncoderLayers, LogMelFrames


class Killed(BaseException):
    pass


@pytest.fixture
def counting(tiny_encoder):
    class Counting(EncoderLayers):
        clips = 0

        def layers(self, waveforms, lengths):
            type(self).clips += len(lengths)
            return super().layers(waveforms, lengths)

    return Counting(tiny_encoder)


def without_times(results):
    def timeless(values):
        return {key: value for key, value in values.items() if key != "seconds"}

    return json.loads(json.dumps(results), object_hook=timeless)


def test_a_killed_extraction_goes_on_where_it_was(counting, tone_suite, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "PART_SEC", 4.0)
    whole = probe_sources({"trained": EncoderLayers(counting.encoder)}, tone_suite)
    sources = {"trained": counting}
    total = len(tone_suite.clips)
    write = feature_cache._write
    written = []

    def dying_write(*args):
        write(*args)
        written.append(args[0])
        if len(written) == 3:
            raise Killed

    monkeypatch.setattr(feature_cache, "_write", dying_write)
    with pytest.raises(Killed):
        probe_sources(sources, tone_suite, cache_dir=tmp_path)
    before = counting.clips
    assert 0 < before < total
    written[0].write_bytes(written[0].read_bytes()[:100])  # cut off: made anew
    monkeypatch.setattr(feature_cache, "_write", write)
    results = probe_sources(sources, tone_suite, cache_dir=tmp_path)
    assert total - before < counting.clips - before < total
    assert without_times(results) == without_times(whole)
    assert list(tmp_path.glob("features-*")) == []


def test_a_killed_scoring_goes_on_behind_the_tasks_that_are_done(
    counting, tone_suite, tmp_path, monkeypatch
):
    done = []
    probed = runner._probed

    def dying_probe(task, *args):
        if done:
            raise Killed
        done.append(task.name)
        return probed(task, *args)

    monkeypatch.setattr(runner, "_probed", dying_probe)
    with pytest.raises(Killed):
        probe_sources({"trained": counting}, tone_suite, cache_dir=tmp_path)
    assert counting.clips == len(tone_suite.clips)
    later = []
    monkeypatch.setattr(runner, "_probed", lambda t, *a: later.append(t.name) or probed(t, *a))
    results = probe_sources({"trained": counting}, tone_suite, cache_dir=tmp_path)
    assert set(results["scores"]["trained"]) == {*done, *later}
    assert done[0] not in later
    assert counting.clips == len(tone_suite.clips)
    assert list(tmp_path.glob("features-*")) == []


def test_a_damaged_score_is_made_anew(tone_suite, tmp_path):
    sources = {"log-mel": LogMelFrames()}
    first = probe_sources(sources, tone_suite, cache_dir=tmp_path)
    victim = next(tmp_path.glob("*.json"))
    victim.write_text(victim.read_text()[:40])
    assert without_times(probe_sources(sources, tone_suite, cache_dir=tmp_path)) == without_times(
        first
    )


def test_parts_hold_what_the_whole_holds(tone_suite, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "PART_SEC", 3.0)
    source = {"log-mel": LogMelFrames()}
    settings = runner.ProbeSettings()
    whole, _ = feature_cache.stored_features(
        source, tone_suite, settings, None, {}, lambda fraction: None
    )["log-mel"]
    seen = []
    parts, _ = feature_cache.stored_features(
        source, tone_suite, settings, tmp_path, {"log-mel": "k"}, seen.append
    )["log-mel"]
    assert len(list(tmp_path.iterdir())) > 3
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    for task in tone_suite.tasks:
        examples = task.examples["train"]
        expected, found = (x.select(task, examples)[1]["log-mel"] for x in (whole, parts))
        torch.testing.assert_close(found, expected)
