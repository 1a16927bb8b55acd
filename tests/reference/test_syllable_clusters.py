"""Units against syllables: every case of sylber's ``metrics*.json``."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from ssl_audio.probes.metrics.token_quality import contingency, label_agreement


def test_clusters(golden, reference_dir):
    for case in golden("sylber/metrics*"):
        want = json.loads((reference_dir / "sylber" / f"{case.name}.json").read_text())
        labels, units = [], []
        for utterance in want["val_utts"] + want["test_utts"]:
            parts = case.below(f"{utterance}/")
            labels.append(parts["gt_label"][parts["match_gt"].long()].tolist())
            units.append(parts["pred_unit"][parts["match_pred"].long()].tolist())
        table = case.tensors["cooccurrence"].numpy()
        flat = [list(itertools.chain(*values)) for values in (labels, units)]
        occurring = table[table.any(1)][:, table.any(0)]
        np.testing.assert_array_equal(contingency(*flat), occurring, case.name)
        found, expected = label_agreement(labels, units), want["clustering"]
        assert found.label_purity == pytest.approx(expected["syllable_purity"], rel=1e-9)
        assert found.code_purity == pytest.approx(expected["cluster_purity"], rel=1e-9)
        nats = expected["mutual_info_nats"]
        assert found.mutual_information == pytest.approx(nats, rel=1e-9)
