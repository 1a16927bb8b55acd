from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from ssl_audio.probes import runner
from ssl_audio.probes.classify import ProbeSettings
from ssl_audio.probes.runner import run_probes, write_results
from ssl_audio.probes.suite import ProbeClip


def without_times(results):
    return json.loads(json.dumps(results), object_hook=lambda d: d | {"seconds": 0})


@pytest.fixture
def results(tiny_encoder, tone_suite):
    return run_probes(tiny_encoder, tone_suite)


def test_all_sources_and_tasks_are_scored_by_the_same_record(results):
    assert list(results["scores"]) == ["trained", "untrained", "log-mel"]
    for scores in results["scores"].values():
        assert set(scores) == {"tone", "half", "loud"}
    keys = {frozenset(score) for scores in results["scores"].values() for score in scores.values()}
    assert len(keys) == 1
    assert results["scores"]["log-mel"]["half"]["value"] == 1.0
    assert results["scores"]["log-mel"]["tone"]["value"] > 0.9
    assert results["warnings"] == []


def test_a_second_run_gives_the_same_results(results, tiny_encoder, tone_suite):
    again = run_probes(tiny_encoder, tone_suite)
    assert without_times(again) == without_times(results)


def test_batch_size_does_not_change_scores(results, tiny_encoder, tone_suite):
    small = run_probes(tiny_encoder, tone_suite, settings=ProbeSettings(batch_sec=0.6))
    for source, scores in results["scores"].items():
        for task, score in scores.items():
            assert small["scores"][source][task]["value"] == score["value"]


def test_the_encoder_is_left_as_it_was(tiny_encoder, tone_suite):
    tiny_encoder.train()
    before = {name: x.clone() for name, x in tiny_encoder.state_dict().items()}
    state = torch.get_rng_state()
    run_probes(tiny_encoder, tone_suite)
    assert all(child.training for child in tiny_encoder.modules())
    torch.testing.assert_close(dict(tiny_encoder.state_dict()), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_cached_results_are_not_computed_again(tiny_encoder, tone_suite, tmp_path, monkeypatch):
    calls = []
    extract = runner.stored_features
    monkeypatch.setattr(
        runner, "stored_features", lambda s, *a: calls.append(list(s)) or extract(s, *a)
    )
    first = run_probes(tiny_encoder, tone_suite, cache_dir=tmp_path)
    assert run_probes(tiny_encoder, tone_suite, cache_dir=tmp_path) == first
    assert calls == [["trained", "untrained", "log-mel"]]
    with torch.no_grad():
        tiny_encoder.first.bias[0] += 1
    run_probes(tiny_encoder, tone_suite, cache_dir=tmp_path)
    part = run_probes(tiny_encoder, tone_suite.only(["tone"]), cache_dir=tmp_path, baselines=())
    assert set(part["scores"]["trained"]) == {"tone"}
    assert calls[1:] == [["trained"]]  # a score of one task serves any choice of tasks
    assert not list(tmp_path.glob("features-*"))


def test_a_task_that_fails_leaves_the_others(tiny_encoder, tone_suite):
    tone = tone_suite.tasks[0]
    bad = {n: ProbeClip(n, b"?", 0.3) for n in tone_suite.clips if n.startswith("valid")}
    one_class = tuple(e._replace(label="x") for e in tone.examples["train"])
    broken = replace(tone, name="broken", examples={**tone.examples, "train": one_class})
    suite = replace(tone_suite, tasks=(broken, *tone_suite.tasks))
    results = run_probes(tiny_encoder, suite, baselines=())
    assert set(results["scores"]["trained"]) == {"tone", "half", "loud"}
    assert results["warnings"] == ["task broken: split 'train' has only one class, 'x'"]
    results = run_probes(
        tiny_encoder, replace(suite, clips={**tone_suite.clips, **bad}), baselines=()
    )
    assert results["scores"]["trained"] == {}
    assert (
        "task tone: no features for split 'valid': every clip of it failed" in results["warnings"]
    )


def test_unknown_names_end_in_one_line(tiny_encoder, tone_suite):
    with pytest.raises(ValueError, match="unknown baseline 'mfcc'; use untrained or log-mel"):
        run_probes(tiny_encoder, tone_suite, baselines=["mfcc"])
    with pytest.raises(ValueError, match="no layer '9'"):
        run_probes(tiny_encoder, tone_suite, layers=["9"])


def test_results_are_written_whole(results, tmp_path):
    path = write_results(results, tmp_path / "probe")
    assert json.loads(path.read_text()) == results
    assert "| tone | accuracy |" in (tmp_path / "probe" / "results.md").read_text()
    assert sorted(p.name for p in path.parent.iterdir()) == ["results.json", "results.md"]
