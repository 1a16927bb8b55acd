"""Scores of tokens and frozen features against fairseq, zrc-abx2, lightly and xares."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from ssl_audio.probes.metrics import xares
from ssl_audio.probes.metrics.abx import AbxItem, AbxSettings, abx_error
from ssl_audio.probes.metrics.knn import knn_class_scores
from ssl_audio.probes.metrics.token_quality import codebook_use, label_agreement

# Not scores: their tests belong to the probes that are trained.
OF_TRAINED_PROBES = {"hear_end_to_end", "hear_mlp_head", "hear_protocol"}


def test_token_quality(metric_cases) -> None:
    for case in metric_cases("token_quality"):
        names = sorted(case["units"])
        units = [case["units"][name] for name in names]
        got = label_agreement([case["phones"][name] for name in names], units)
        assert got.num_frames == case["frames"]
        assert got.label_purity == pytest.approx(case["phone_purity"], abs=1e-9)
        assert got.code_purity == pytest.approx(case["cluster_purity"], abs=1e-9)
        assert got.label_entropy == pytest.approx(case["H_phone"], abs=1e-5)
        assert got.code_entropy == pytest.approx(case["H_unit"], abs=1e-5)
        assert got.mutual_information == pytest.approx(case["MI"], abs=1e-5)
        assert got.pnmi == pytest.approx(case["PNMI"], abs=1e-5)
        assert got.code_information == pytest.approx(case["MI_over_H_unit"], abs=1e-5)
        assert got.label_run_frames == pytest.approx(case["phone_seg_len"], abs=1e-9)
        assert got.code_run_frames == pytest.approx(case["unit_seg_len"], abs=1e-9)
        use = codebook_use(np.array(list(itertools.chain(*units))), case["codebook_size"])
        want = case["by_definition"]
        assert {name: getattr(use, name) for name in want} == pytest.approx(want, abs=1e-5)


def test_abx(metric_cases) -> None:
    for case in metric_cases("abx"):
        rate = 1 / case["frame_step_s"]
        features = {name: np.array(frames) for name, frames in case["features"].items()}
        items = []
        for line in case["items"]:
            file, onset, offset, phone, before, after, speaker = line.split()
            context = f"{before} {after}"
            items.append(AbxItem(file, float(onset), float(offset), phone, context, speaker))
        for result in case["results"]:
            condition = {name: value for name, value in result.items() if name != "abx_error"}
            settings = AbxSettings(
                **condition, max_group_items=len(items), max_x_speakers=len(items)
            )
            got = abx_error(features, items, frame_rate=rate, settings=settings)
            assert got == pytest.approx(result["abx_error"], abs=2e-3), condition


def test_weighted_knn(metric_cases) -> None:
    for case in metric_cases("knn_weighted"):
        scores = knn_class_scores(
            np.array(case["train"]),
            np.array(case["train_labels"]),
            np.array(case["test"]),
            num_classes=case["num_classes"],
            k=case["k"],
            temperature=case["temperature"],
        )
        ranked = np.argsort(-scores, axis=1, kind="stable")
        for row, order, want in zip(scores, ranked, case["ranked_classes"], strict=True):
            voted = max(1, int((row > 0).sum()))
            assert order[:voted].tolist() == want[:voted]


def check_knn(case: dict) -> None:
    want = np.array(case["class_scores"])
    got = xares.knn_as_published(
        np.array(case["train"]),
        np.array(case["train_labels"]),
        np.array(case["test"]),
        num_classes=want.shape[1],
        k=case["k"],
        temperature=case["temperature"],
    )
    assert got == pytest.approx(want, abs=1e-4)


def check_masked_mean(case: dict) -> None:
    got = xares.masked_mean(np.array(case["x_BDT"]), case["lengths"])
    assert got == pytest.approx(np.array(case["out"]), abs=1e-5)


def check_segment_f1(case: dict) -> None:
    got = xares.segment_f1(
        np.array(case["pred"]),
        np.array(case["target"]),
        hop_ms=case["hop_ms"],
        segment_sec=case["segment_s"],
        average=case["average"],
    )
    assert got == pytest.approx(case["f1"], abs=1e-9)


def check_retrieval(case: dict) -> None:
    audio, text = np.array(case["audio"]), np.array(case["text"])
    got = xares.retrieval_scores(audio, text, captions_per_clip=case["num_caps"])
    for direction, want in case["metrics"].items():
        assert got[direction] == pytest.approx(want, abs=1e-3)


def check_weighted_average(case: dict) -> None:
    table = np.array(list(case["scores"].values()))  # (tasks, heads, score and weight)
    got = [xares.weighted_average(column[:, 0], column[:, 1]) for column in table.swapaxes(0, 1)]
    assert got == pytest.approx(case["out"], abs=1e-9)


def test_xares(metric_cases) -> None:
    checks = {
        "knn_as_implemented": check_knn,
        "masked_mean": check_masked_mean,
        "segment_f1": check_segment_f1,
        "retrieval": check_retrieval,
        "weighted_average": check_weighted_average,
    }
    for case in metric_cases("xares_metrics"):
        checks[case["kind"]](case)


def test_every_metric_file_has_a_test(reference_dir, request) -> None:
    sources = [path.read_text() for path in request.path.parent.glob("test_*.py")]
    stems = {stem for source in sources for stem in re.findall(r'metric_cases\("(\w+)"\)', source)}
    stems |= OF_TRAINED_PROBES
    for path in (reference_dir / "metrics").glob("*.json"):
        assert any(path.stem.startswith(stem) for stem in stems), f"no test reads {path.name}"
