"""Bursts of three tones as syllables: an encoder that hears them, its untrained self, valleys."""

from __future__ import annotations

import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch

from ssl_audio import cli, hub
from ssl_audio.pipeline import RunContext
from ssl_audio.probes import syllable_suite
from ssl_audio.probes.syllable_corpora import SyllableCorpus, syllable_corpora
from ssl_audio.probes.syllable_suite import (
    SyllableSettings,
    probe_syllables,
)
from ssl_audio.probes.table import markdown_table
from ssl_audio.stages.segmentation import SegmentationStage
from ssl_audio.tokenizers import KMeansTokenizer, SyllableTokenizer

SETTINGS = SyllableSettings(num_units=3)


@pytest.fixture(scope="module")
def results(bursts, burst_corpus):
    class Blind(bursts.Bands):
        """Always the same frame: what an untrained encoder may look like at worst."""

        def forward_features(self, features, lengths=None):
            return super().forward_features(torch.ones_like(features), lengths)

    return probe_syllables(bursts.Bands(), [burst_corpus], untrained=Blind(), settings=SETTINGS)


def test_every_source_goes_the_same_way(results, burst_corpus, bursts):
    scores = results["scores"]
    assert list(scores) == ["trained", "untrained", "log-mel"]
    boundaries, units = "bursts: boundaries", "bursts: units: syllable purity"
    assert scores["trained"][boundaries]["value"] > 0.9
    assert scores["trained"][units]["value"] > 0.9
    assert scores["untrained"][boundaries]["value"] < 0.3
    assert scores["log-mel"][boundaries]["value"] > 0.5  # bursts are easy for energy too
    for source in scores:
        low, high = scores[source][boundaries]["ci95"]
        assert low <= scores[source][boundaries]["value"] <= high


def test_the_table_and_its_notes(results):
    text = markdown_table(results)
    assert "| bursts: boundaries, R-value |" in text
    assert "trained beats untrained on" in text
    assert sum("tokens/s of" in note for note in results["notes"]) == 3
    assert not results["warnings"]


def test_an_exported_tokenizer_keeps_its_thresholds_and_units(bursts, burst_corpus):
    encoder = bursts.Bands()
    options = {"norm_threshold": 0.1, "merge_threshold": 0.8}
    more = {"deduplicate": True, "silence_gap_sec": 0.1}  # change no boundary
    tones = torch.from_numpy(bursts.bursts([0, 1, 2], seed=0)).float()[None]
    units = SyllableTokenizer(encoder, **options).segment_features(tones)
    tokenizer = SyllableTokenizer(encoder, units, **options, **more)
    found = probe_syllables(tokenizer, [burst_corpus], settings=SETTINGS)["details"]
    exported = found["as exported"]["bursts"]
    assert {name: exported[name] for name in options} == options
    assert exported["num_units"] == 3
    # Silence is no segment: each burst is found, and its end, which counts too, is not.
    assert (exported["precision"], exported["syllable_purity"]) == (1, 1)
    assert exported["recall"] == 0.5
    rate = 5 / bursts.duration_of([0] * 5)
    assert exported["tokens_per_sec"] == pytest.approx(rate)
    assert exported["reference_per_sec"] == pytest.approx(rate)
    assert exported["bits_per_sec"] == pytest.approx(rate * math.log2(3))
    # Units tell the label completely, so what is told is the entropy of the labels.
    assert 0.8 < exported["coding_efficiency"] <= 1
    assert found["trained"]["bursts"]["f1"] > exported["f1"]


def test_too_few_segments_for_units_leave_boundaries(bursts, burst_corpus):
    settings = SyllableSettings(num_units=1000)
    results = probe_syllables(bursts.Bands(), [burst_corpus], settings=settings)
    assert "bursts: boundaries" in results["scores"]["trained"]
    assert not any("purity" in task for task in results["scores"]["trained"])
    assert "vectors for 1000 units" in results["warnings"][0]


def test_a_corpus_that_cannot_be_read_is_a_row(bursts):
    results = probe_syllables(bursts.Bands(), [SyllableCorpus("x", {}, problem="x: no audio")])
    assert results["failed"] == ["x"]
    assert results["warnings"] == ["task x: x: no audio"]


def test_a_corpus_without_test_recordings_is_one_line(bursts, burst_corpus):
    empty = SyllableCorpus("empty", {**burst_corpus.splits, "test": ()})
    results = probe_syllables(bursts.Bands(), [empty, burst_corpus], settings=SETTINGS)
    assert results["failed"] == ["empty"]
    assert results["warnings"] == ["task empty: no recordings with syllables in split 'test'"]
    assert "bursts: boundaries" in results["scores"]["trained"]


def test_a_second_run_reads_the_first(bursts, burst_corpus, tmp_path, monkeypatch):
    def run(model=None, settings=SETTINGS):
        found = probe_syllables(
            model or bursts.Bands(), [burst_corpus], settings=settings, cache_dir=tmp_path
        )
        return found, len(list(tmp_path.glob("syllables-*.json")))

    first, count = run()
    assert count == 2  # the encoder has no weights, so its untrained self is the same
    with monkeypatch.context() as context:
        context.setattr(syllable_suite, "score_segmentation", None)
        assert run() == (first, count)
    assert run(settings=SyllableSettings(num_units=4))[1] == count + 2
    tokenizer = SyllableTokenizer(bursts.Bands(), norm_threshold=0.1, merge_threshold=0.8)
    again = run(tokenizer)  # only the tokenizer's own column is new
    assert again[1] == count + 3
    assert again[0]["scores"]["trained"] == first["scores"]["trained"]


def test_corpora_of_a_folder(bursts, tmp_path):
    bursts.write_task(tmp_path, "syllables_x")
    bursts.write_task(tmp_path, "other")
    assert [corpus.name for corpus in syllable_corpora(tmp_path)] == ["syllables_x"]
    (corpus,) = syllable_corpora(tmp_path, ["other"])
    assert corpus.splits["test"][0].labels == ("a", "b", "c")
    with pytest.raises(ValueError, match="no demo corpus here"):
        syllable_corpora(tmp_path / "nowhere")
    broken = tmp_path / "probes" / "syllables_y"
    broken.mkdir()
    (broken / "test.csv").write_text("path,label\n")
    first, second = syllable_corpora(tmp_path)
    assert first.problem is None
    assert "train.csv: missing" in (second.problem or "")
    with pytest.raises(ValueError, match=r"train\.csv: missing"):
        syllable_corpora(tmp_path, ["syllables_y"])


def test_the_command_and_the_stage_print_the_same_scores(bursts, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "bands", SimpleNamespace(Bands=bursts.Bands))
    monkeypatch.setitem(hub.ENCODERS, "bands", "bands:Bands")
    encoder = bursts.Bands()
    tones = torch.from_numpy(bursts.bursts([0, 1, 2], seed=0)).float()[None]
    options = {"norm_threshold": 0.1, "merge_threshold": 0.8}
    units = SyllableTokenizer(encoder, **options).segment_features(tones)
    model = str(hub.save(SyllableTokenizer(encoder, units, **options), tmp_path / "model"))
    bursts.write_task(tmp_path, "syllables_x")
    out = ["--output", str(tmp_path / "out"), "--device", "cpu"]
    cli.main(["probe", "--suite", "syllables", "--model", model, "--root", str(tmp_path), *out])
    assert "tokens/s of" in capsys.readouterr().out
    printed = json.loads((tmp_path / "out" / "results.json").read_text())

    corpus = {
        "_target_": "ssl_audio.probes.syllable_corpora.folder_syllables",
        "root": str(tmp_path),
        "task": "syllables_x",
    }
    stage = SegmentationStage(model, {}, {"x": corpus, "left out": None}, {}, device="cpu")
    stage.run(tmp_path / "stage", RunContext(tmp_path))
    scores = json.loads((tmp_path / "stage" / "results.json").read_text())["scores"]
    assert list(scores) == ["trained", "untrained", "log-mel", "as exported"]
    task = "syllables_x: boundaries"
    assert scores["as exported"][task]["value"] == printed["scores"]["as exported"][task]["value"]

    other = str(hub.save(KMeansTokenizer(encoder, units), tmp_path / "other"))
    with pytest.raises(SystemExit):
        cli.main(["probe", "--suite", "syllables", "--model", other, "--root", str(tmp_path), *out])
    assert "a tokenizer of kind 'kmeans'" in capsys.readouterr().err
