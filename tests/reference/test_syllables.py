"""Segmentation against Sylber 8287c90: every case and setting of ``segmentation*.json``."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ssl_audio.tokenizers.syllables import segment_means, segment_syllables
from ssl_audio.tokenizers.syllables_batch import segment_batch

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


@pytest.fixture(scope="module")
def runs(golden, reference_dir):
    """(name, features, norm threshold, merge threshold, segments, their features or None)"""
    found = []
    for case in golden("sylber/segmentation*"):
        settings = json.loads((reference_dir / "sylber" / f"{case.name}.json").read_text())
        for row in settings["cases"]:
            features = case.tensors[f"feat/{row['name']}"].float()
            for setting in row["settings"]:
                name = f"{row['name']}/{setting['id']}"
                found.append(
                    (
                        name,
                        features,
                        setting["norm_threshold"],
                        setting["merge_threshold"],
                        case.tensors[f"segments/{name}"].long(),
                        case.tensors.get(f"segment_features/{name}"),
                    )
                )
    assert found
    return found


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_segments_are_equal(runs, backend):
    for name, features, norm, merge, expected, means in runs:
        segments = segment_syllables(features, norm, merge, backend=backend)
        assert torch.equal(segments, expected), name
        if means is not None:
            found = segment_means(features.numpy(), segments.numpy())
            np.testing.assert_allclose(found, means.numpy(), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("device", DEVICES)
def test_segments_of_padded_batches_are_equal(runs, device):
    """Each case beside itself with loud frames after its end."""
    for name, features, norm, merge, expected, _ in runs:
        padded = torch.cat([features, 9 * torch.ones(3, features.shape[1])]).to(device)
        lengths = torch.tensor([len(features), len(padded)], device=device)
        found = segment_batch(torch.stack([padded, padded]), lengths, norm, merge)[0].cpu()
        assert torch.equal(found[: len(expected)], expected), name
        assert (found[len(expected) :] == -1).all(), name
