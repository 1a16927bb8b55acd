from __future__ import annotations

import math

import pytest

from ssl_audio.probes.metrics import slot_filling


def test_values_are_compared_within_their_type():
    reference = ["play B-song ab cd E-song in B-city rome E-city"]
    hypothesis = ["play B-song xb cd E-song B-song rome E-song in B-city roma E-city"]
    assert slot_filling.slot_type_f1(hypothesis, reference) == 1.0
    assert slot_filling.slot_value_wer(hypothesis, reference) == pytest.approx((1 + 1) / (2 + 1))
    assert slot_filling.slot_value_cer(hypothesis, reference) == pytest.approx((1 + 1) / (5 + 4))


def test_edit_f1_counts_unknown_types_on_request():
    reference, hypothesis = ["B-a x E-a"], ["B-a x E-a B-b y E-b"]
    assert slot_filling.slot_edit_f1(hypothesis, reference, count_unknown_types=False) == 100
    full = slot_filling.slot_edit_f1(hypothesis, reference, count_unknown_types=True)
    assert full == pytest.approx(200 / 3)


def test_texts_without_slots():
    assert slot_filling.slot_type_f1(["a"], ["b"]) == 1.0
    assert math.isnan(slot_filling.slot_value_cer(["a"], ["b"]))
    assert math.isnan(slot_filling.slot_edit_f1(["a"], ["b"], count_unknown_types=True))
    assert math.isnan(slot_filling.slot_type_f1([], []))
