from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from ssl_audio.probes.metrics import token_quality as quality


def test_uniform_and_constant_codes():
    uniform = quality.codebook_use(np.tile(np.arange(16), 10), 16)
    assert uniform.utilisation == 1
    assert uniform.perplexity == pytest.approx(16)
    assert uniform.entropy_bits == pytest.approx(4)
    assert uniform.normalised_entropy == pytest.approx(1)
    constant = quality.codebook_use(np.full(50, 3), 16)
    assert (constant.utilisation, constant.effective_codes) == (1 / 16, 1)
    assert constant.perplexity == 1


def test_effective_codes_leave_out_the_rarest():
    codes = np.repeat([0, 1, 2], [600, 394, 6])
    assert quality.codebook_use(codes, 4).effective_codes == 2
    assert quality.codebook_use(np.arange(4), 4).effective_codes == 4


def test_no_frames_and_bad_codes():
    assert math.isnan(quality.codebook_use(np.empty(0, np.int64), 4).perplexity)
    with pytest.raises(ValueError, match=r"0 \.\. 3, got -100 \.\. 2"):
        quality.codebook_use(np.array([2, -100]), 4)


def test_agreement_of_equal_and_of_independent_sequences():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (3, 400))
    same = quality.label_agreement([["abcde"[i] for i in row] for row in labels], labels)
    assert same.label_purity == same.code_purity == 1
    assert same.pnmi == pytest.approx(1)
    other = quality.label_agreement(labels, rng.integers(0, 4, (3, 400)))
    assert other.pnmi < 0.02
    constant = quality.label_agreement(labels, np.zeros((3, 400), np.int64))
    assert constant.pnmi == 0
    assert math.isnan(constant.code_information)


def test_agreement_equals_scikit_learn():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 6, 500)
    codes = (labels + rng.integers(0, 3, 500)) % 9
    got = quality.label_agreement([labels], [codes])
    assert got.mutual_information == pytest.approx(mutual_info_score(labels, codes))


def test_sequences_are_cut_to_the_shorter():
    got = quality.label_agreement([["a", "b", "b"], []], [[1, 2], [5]])
    assert got.num_frames == 2
    with pytest.raises(ValueError, match="no frame in common"):
        quality.label_agreement([[]], [[1, 2]])
    with pytest.raises(ValueError, match="labels of 1 clips for codes of 2"):
        quality.label_agreement([["a"]], [[1], [2]])


def test_redundancy_of_copied_and_independent_codebooks():
    codes = np.random.default_rng(2).integers(0, 4, (5000, 3))
    codes[:, 2] = codes[:, 0]
    table = quality.codebook_redundancy(codes)
    assert table[0, 2] == pytest.approx(table[0, 0]) == pytest.approx(math.log(4), abs=0.01)
    assert table[0, 1] < 0.01
    assert quality.joint_entropy(codes) == pytest.approx(2 * math.log(4), abs=0.01)


def test_order_of_codes():
    rates = quality.conditional_entropies([[0, 1] * 100, [1, 0] * 100], 2)
    assert rates[0] == pytest.approx(math.log(2))
    assert rates[1:] == pytest.approx([0, 0], abs=1e-9)
    assert all(math.isnan(rate) for rate in quality.conditional_entropies([[3]], 2)[1:])


def test_runs_end_with_their_clip():
    assert quality.mean_run_frames([[1, 1, 2], [2, 2]]) == pytest.approx(5 / 3)
    assert math.isnan(quality.mean_run_frames([[]]))


def test_rates():
    assert quality.bit_rate(quality.token_rate(1500, 10), 1024) == pytest.approx(1500)
    assert math.isnan(quality.token_rate(3, 0))
