from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from ssl_audio import audio
from ssl_audio.models import LogSpectrumEncoder
from ssl_audio.probes import token_suite
from ssl_audio.probes.abx_task import AbxTask
from ssl_audio.probes.metrics.abx import AbxItem
from ssl_audio.probes.recordings import Recording
from ssl_audio.probes.suite import SPLITS, ProbeClip
from ssl_audio.probes.token_suite import probe_tokens
from ssl_audio.tokenizers import KMeansTokenizer, RandomProjectionTokenizer, SyllableTokenizer


@pytest.fixture
def tokenizer():
    return RandomProjectionTokenizer(codebook_size=8, seed=1)


@pytest.fixture
def abx(tone_suite):
    """Both halves of the test clips as phones."""
    recordings, items = [], []
    for name, clip in tone_suite.clips.items():
        if name.startswith("test"):
            half = clip.duration_sec / 2
            speaker = f"speaker{len(recordings) % 3}"
            for label, start in (("loud", 0.0), ("soft", half)):
                items.append(AbxItem(name, start, start + half, label, "the same", speaker))
            read = partial(audio.read, clip.source, name=name)
            recordings.append(Recording(name, clip.duration_sec, read))
    return AbxTask(tuple(recordings), tuple(items))


def test_rows_of_codes_tasks_and_phones(tokenizer, tone_suite, abx):
    results = probe_tokens(tokenizer, tone_suite, abx)
    assert list(results["scores"]) == ["trained", "untrained"]
    scores = results["scores"]["trained"]
    wanted = {f"{task}: {x}" for task in ("tone", "half", "loud") for x in token_suite.AGREEMENT}
    assert wanted < set(scores)
    assert {f"codes: {key}" for key in token_suite.USE} < set(scores)
    assert results["failed"] == results["warnings"] == []
    assert 0 <= scores["phones: ABX"]["value"] <= 1
    for name, row in scores.items():
        if name != "phones: ABX":
            assert row["ci95"][0] <= row["value"] <= row["ci95"][1], name


def test_loud_and_soft_have_codes_of_their_own(tone_suite):
    encoder = LogSpectrumEncoder().eval()
    quiet, loud = torch.full((2, encoder.embed_dim), -8.0).unbind()
    tokenizer = KMeansTokenizer(encoder, torch.stack([quiet, loud + 8]))
    scores = probe_tokens(tokenizer, tone_suite, None)["scores"]
    assert scores["trained"]["codes: perplexity"]["value"] <= 2
    untrained = scores["untrained"]  # the same encoder, units of its own
    assert 1 < untrained["codes: perplexity"]["value"] <= 2
    assert untrained["tone: pnmi"]["value"] > 0.1


def test_untrained_units_depend_on_nothing_but_the_task(tone_suite):
    tokenizer = KMeansTokenizer((e := LogSpectrumEncoder().eval()), torch.zeros(3, e.embed_dim))
    whole = probe_tokens(tokenizer, tone_suite, None)["scores"]["untrained"]
    alone = probe_tokens(tokenizer, tone_suite.only(["half"]), None)["scores"]["untrained"]
    for key in token_suite.AGREEMENT:
        assert alone[f"half: {key}"] == whole[f"half: {key}"]


def test_more_units_than_an_untrained_encoder_has_frames_are_one_line(tone_suite):
    tokenizer = KMeansTokenizer((e := LogSpectrumEncoder().eval()), torch.zeros(5000, e.embed_dim))
    results = probe_tokens(tokenizer, tone_suite.only(["tone"]), None)
    assert results["scores"]["untrained"] == {}
    assert "vectors for 5000 units; give more audio" in results["warnings"][0]


def test_a_second_run_reads_the_first(tokenizer, tone_suite, abx, tmp_path, monkeypatch):
    first = probe_tokens(tokenizer, tone_suite, abx, cache_dir=tmp_path)
    count = len(list(tmp_path.glob("tokens-*.json")))
    assert count == 5  # codes, three tasks, ABX; a random projection is its own untrained self
    with monkeypatch.context() as context:
        context.setattr(token_suite, "read_tokens", None)
        context.setattr(token_suite, "abx_scores", None)
        assert probe_tokens(tokenizer, tone_suite, abx, cache_dir=tmp_path) == first
    other = RandomProjectionTokenizer(codebook_size=8, seed=2)
    probe_tokens(other, tone_suite.only(["tone"]), None, cache_dir=tmp_path)
    assert len(list(tmp_path.glob("tokens-*.json"))) == count + 2


def test_a_task_alone_has_the_rows_that_it_has_among_others(tokenizer, tone_suite):
    whole = probe_tokens(tokenizer, tone_suite, None)["scores"]["trained"]
    alone = probe_tokens(tokenizer, tone_suite.only(["half"]), None)["scores"]["trained"]
    for key in token_suite.AGREEMENT:
        assert alone[f"half: {key}"] == whole[f"half: {key}"]


def test_what_fails_is_told_and_the_others_go_on(tokenizer, tone_suite):
    clips = {**tone_suite.clips, "test-0": ProbeClip("test-0", b"?", 0.3)}
    tone = tone_suite.tasks[0]
    away = {s: tuple(e._replace(start_sec=9.0) for e in tone.examples[s]) for s in SPLITS}
    tasks = (*tone_suite.tasks, replace(tone, name="away", examples=away))
    results = probe_tokens(tokenizer, replace(tone_suite, clips=clips, tasks=tasks), None)
    assert results["failed"] == ["away"]
    assert "task away: no token lies in a labelled span" in results["warnings"]
    assert any(line.startswith("task tone: test-0") for line in results["warnings"])
    assert "tone: pnmi" in results["scores"]["trained"]
    segments = SyllableTokenizer(LogSpectrumEncoder(), norm_threshold=0.0, merge_threshold=0.8)
    with pytest.raises(ValueError, match="token quality needs codes; fit units"):
        probe_tokens(segments, tone_suite, None)
