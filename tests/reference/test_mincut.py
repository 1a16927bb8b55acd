"""Min-cut segmentation against sdhubert 3c98c02: every case of ``mincut*.json``."""

from __future__ import annotations

import json

import numpy as np

from ssl_audio.tokenizers.mincut import min_cut, segment_min_cut
from ssl_audio.tokenizers.syllables import segment_means

FRAME_RATE_HZ = 50


def settings_of(case, reference_dir):
    return json.loads((reference_dir / "sylber" / f"{case.name}.json").read_text())


def test_boundaries_are_equal(golden, reference_dir):
    for case in golden("sylber/mincut*"):
        for row in settings_of(case, reference_dir)["cut"]:
            similarity = case.tensors[f"cut/{row['id']}/ssm"].numpy()
            expected = case.tensors[f"cut/{row['id']}/boundaries"].numpy()
            np.testing.assert_array_equal(min_cut(similarity, row["K"]), expected, str(row))


def test_segments_are_equal(golden, reference_dir):
    for case in golden("sylber/mincut*"):
        for row in settings_of(case, reference_dir)["wrapper"]:
            expected = case.below(f"wrap/{row['id']}/")
            features = expected["features"].numpy()
            found = segment_min_cut(
                features,
                expected["runs"].numpy(),
                row["syl_dur"] * FRAME_RATE_HZ,
                row["merge_threshold"],
            )
            np.testing.assert_array_equal(found, expected["segments"].numpy(), str(row))
            means = segment_means(features, found)
            np.testing.assert_allclose(means, expected["segment_features"].numpy(), atol=1e-5)
