"""SUPERB's scores against s3prl."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ssl_audio.probes.metrics import error_rates, slot_filling
from ssl_audio.probes.metrics.diarization import (
    diarization_counts,
    permutation_invariant_loss,
    speaker_segments,
)
from ssl_audio.probes.metrics.query_by_example import Documents
from ssl_audio.probes.metrics.separation import mask_mse, pairwise_negative_si_sdr
from ssl_audio.probes.metrics.verification import equal_error_rate, min_detection_cost


def test_error_rates(metric_cases) -> None:
    for case in metric_cases("superb_error_rates"):
        texts = case["hyps"], case["refs"]
        assert error_rates.word_error_rate(*texts) == pytest.approx(case["wer"], abs=1e-9)
        assert error_rates.word_error_rate(*texts) == pytest.approx(case["per"], abs=1e-9)
        assert error_rates.character_error_rate(*texts) == pytest.approx(case["cer"], abs=1e-9)


def test_slot_filling(metric_cases) -> None:
    for case in metric_cases("superb_slot_filling"):
        texts = case["hyps"], case["refs"]
        got = {
            "slot_type_f1": slot_filling.slot_type_f1(*texts),
            "slot_value_cer": slot_filling.slot_value_cer(*texts),
            "slot_value_wer": slot_filling.slot_value_wer(*texts),
            "slot_edit_f1_full": slot_filling.slot_edit_f1(*texts, count_unknown_types=True),
            "slot_edit_f1_part": slot_filling.slot_edit_f1(*texts, count_unknown_types=False),
            "wer": error_rates.word_error_rate(*texts),
            "cer": error_rates.character_error_rate(*texts),
        }
        assert got == pytest.approx({name: case[name] for name in got}, abs=1e-9)


def test_verification(metric_cases) -> None:
    for case in metric_cases("superb_verification"):
        trials = np.array(case["scores"]), np.array(case["labels"])
        assert equal_error_rate(*trials)[0] == pytest.approx(case["eer"], abs=1e-6)
        assert min_detection_cost(*trials)[0] == pytest.approx(case["min_dcf"], abs=1e-9)


def test_diarization_frames(metric_cases) -> None:
    ours = {"speech_falarm": "speech_false_alarm", "speaker_falarm": "speaker_false_alarm"}
    for case in metric_cases("superb_diarization"):
        logits, labels = np.array(case["logits"]), np.array(case["labels"])
        loss, permutation = permutation_invariant_loss(logits, labels, case["lengths"])
        assert loss == pytest.approx(case["pit_loss"], abs=1e-5)
        assert permutation.tolist() == case["permutation"]
        aligned = np.take_along_axis(labels, permutation[:, None], axis=2)
        counts = diarization_counts(logits, aligned, case["lengths"])
        got = {name: getattr(counts, ours.get(name, name)) for name in case["counts"]}
        assert got == case["counts"]
        assert counts.error_rate == case["der"]
        assert counts.accuracy == pytest.approx(case["acc"], abs=1e-9)


def test_diarization_segments(reference_dir) -> None:
    paths = sorted((reference_dir / "metrics").glob("superb_diarization*.json"))
    cases = [case for path in paths for case in json.loads(path.read_text())["rttm_cases"]]
    assert cases
    for case in cases:
        segments = speaker_segments(
            np.array(case["probabilities"]),
            frame_sec=case["frame_shift"] / case["sampling_rate"],
            threshold=case["threshold"],
            median_frames=case["median"],
        )
        want = case["segments"]
        assert [s.speaker for s in segments] == [int(w["speaker"].split("_")[-1]) for w in want]
        for ours, theirs in (("start_sec", "start"), ("duration_sec", "duration")):
            assert [getattr(s, ours) for s in segments] == pytest.approx(
                [w[theirs] for w in want], abs=0.005 + 1e-9
            )


def test_query_by_example(metric_cases) -> None:
    for case in metric_cases("superb_qbe_dtw"):
        query, document = np.array(case["query"]), np.array(case["doc"])
        for name, scale_rows in (("score_minmax", True), ("score_no_minmax", False)):
            got = Documents([document]).scores(
                query, distance=case["distance"], scale_rows=scale_rows
            )
            assert got[0] == pytest.approx(case[name], abs=1e-9)


def test_separation(metric_cases) -> None:
    for case in metric_cases("superb_separation"):
        if case["kind"] == "pairwise_neg_sisdr":
            got = pairwise_negative_si_sdr(
                np.array(case["estimates"]), np.array(case["targets"]), case["lengths"]
            )
            assert got == pytest.approx(np.array(case["neg_sisdr"]), abs=1e-6)
        else:
            assert case["kind"] == "mask_mse"
            by_source = {  # written source by source, (S, B, T, F)
                name: np.swapaxes(case[name], 0, 1)
                for name in ("masks", "target_mag", "target_phase")
            }
            got = mask_mse(
                by_source["masks"],
                np.array(case["mix_mag"]),
                np.array(case["mix_phase"]),
                by_source["target_mag"],
                by_source["target_phase"],
                case["frames"],
                mask_type=case["mask_type"],
            )
            assert got == pytest.approx(case["loss"], abs=1e-9)
