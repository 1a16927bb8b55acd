"""Evaluation of segments against sdhubert 3c98c02: every case of sylber's ``metrics*.json``."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ssl_audio.probes.metrics.boundaries import best_shift, boundary_score, match_segments


@pytest.fixture(scope="module")
def cases(golden, reference_dir):
    folder = reference_dir / "sylber"
    return [
        (case, json.loads((folder / f"{case.name}.json").read_text()))
        for case in golden("sylber/metrics*")
    ]


def segments(case, name, utterances):
    return [case.tensors[f"{utterance}/{name}"].numpy() for utterance in utterances]


def test_boundaries(cases):
    for case, want in cases:
        tolerance = want["tolerance_s"]
        valid = [segments(case, name, want["val_utts"]) for name in ("gt", "pred")]
        values = [boundary_score(*valid, tolerance, s).r_value for s in want["shifts"]]
        assert values == pytest.approx(want["val_r_by_shift"], rel=1e-9)
        shift = best_shift(*valid, tolerance)
        assert shift == pytest.approx(want["best_shift"], abs=1e-9)
        test = [segments(case, name, want["test_utts"]) for name in ("gt", "pred")]
        for key, moved in (("test_no_shift", 0.0), ("test_best_shift", shift)):
            score, expected = boundary_score(*test, tolerance, moved), want[key]
            counts = [score.num_hits, score.num_reference, score.num_predicted]
            assert counts == [expected[name] for name in ("match_gt", "gt_len", "pred_len")]
            for name in ("precision", "recall", "f1", "r_value"):
                assert getattr(score, name) == pytest.approx(expected[name], rel=1e-9), name
            assert score.over_segmentation == pytest.approx(expected["os"], rel=1e-9)


def test_matching(cases):
    for case, want in cases:
        for utterance in want["val_utts"] + want["test_utts"]:
            parts = case.below(f"{utterance}/")
            pairs = match_segments(parts["gt"].numpy(), parts["pred"].numpy())
            expected = np.stack([parts["match_gt"], parts["match_pred"]], axis=1)
            np.testing.assert_array_equal(pairs, expected)
