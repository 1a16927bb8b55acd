"""Norm thresholds against Sylber 8287c90: every threshold and update of ``modules*.json``."""

from __future__ import annotations

import json

import pytest
import torch

from ssl_audio.tokenizers.norm_threshold import NormThreshold, gaussian_boundary

STATISTICS = ("signal_mean", "signal_var", "noise_mean", "noise_var")


@pytest.fixture(scope="module")
def cases(golden, reference_dir):
    folder = reference_dir / "sylber"
    return [
        (case, json.loads((folder / f"{case.name}.json").read_text()))
        for case in golden("sylber/modules*")
    ]


def test_thresholds(cases):
    for _, settings in cases:
        for row in settings["thresholds"]:
            stats = {name: torch.tensor(row["stats"][name]) for name in STATISTICS}
            found = gaussian_boundary(**stats, eta=row["stats"].get("eta", 1.0))
            assert found.item() == pytest.approx(row["threshold"], rel=1e-5), row


def test_updates(cases):
    for case, settings in cases:
        updates = settings["thresholder_updates"]
        module = NormThreshold(**updates["initial"], decay=updates["decay"])
        for row in updates["history"]:
            norms = [
                case.tensors.get(f"thr/{row['step']}/{name}", torch.zeros(0))
                for name in ("signal", "noise")
            ]
            used = [row["update"] in ("both", f"{name}_only") for name in ("signal", "noise")]
            masks = [torch.full(x.shape, use) for x, use in zip(norms, used, strict=True)]
            module.update(norms[0], masks[0], norms[1], masks[1])
            found = {name: getattr(module, name).item() for name in STATISTICS}
            assert found == pytest.approx({name: row[name] for name in STATISTICS}, rel=1e-5)
            assert module().item() == pytest.approx(row["threshold"], rel=1e-5)
