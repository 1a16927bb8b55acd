"""HEAR's embeddings and scores do not depend on how many clips share a forward pass.

Embeddings agree to 1e-5, not to the last bit, and training a network enlarges what is left: of two
trainings on the same numbers but for that, a peak near the threshold may be found in one only. So
scores of events are held to a few of them, those of scenes are the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssl_audio.models import Zipformer
from ssl_audio.models.encoder import Encoder
from ssl_audio.probes.hear.embeddings import Embedder
from ssl_audio.probes.hear.folder import read_task
from ssl_audio.probes.hear.protocol import Embeddings
from ssl_audio.probes.hear.run import HearRun
from ssl_audio.probes.sources import EncoderLayers

SIZES = (1, 4, 16)


def embedded(directory: Path, encoder: Encoder, longest_sec: float) -> list[Embeddings]:
    """The test split in batches of 1, 4 and 16 clips."""
    task, source = read_task(directory), EncoderLayers(encoder, ["last"])
    return [Embedder(source, size * longest_sec).split(task, "test")[0] for size in SIZES]


def scored(directory: Path, encoder: Encoder, longest_sec: float) -> list[dict[str, Any]]:
    sources = {"x": EncoderLayers(encoder, ["last"])}
    runs = [
        HearRun(directory.parent, "heareval", batch_sec=size * longest_sec, table={})
        for size in SIZES
    ]
    return [run.run(sources)["scores"]["x"][directory.name] for run in runs]


def test_scenes(scene_task, tmp_path, padding_exact):
    one, *others = embedded(scene_task(tmp_path, count=16), padding_exact, 0.45)
    for other in others:
        torch.testing.assert_close(other.x, one.x, atol=1e-5, rtol=1e-4)
        np.testing.assert_array_equal(other.targets, one.targets)


@pytest.mark.parametrize("padding_exact", [Zipformer], indirect=True)
def test_scores_of_scenes(scene_task, tmp_path, padding_exact):
    found = scored(scene_task(tmp_path), padding_exact, 0.45)
    assert len({score["value"] for score in found}) == 1


def test_events(event_task, tmp_path, padding_exact):
    one, *others = embedded(event_task(tmp_path, count=4), padding_exact, 2.8)
    for other in others:
        torch.testing.assert_close(other.x, one.x, atol=1e-5, rtol=1e-4)
        np.testing.assert_array_equal(other.targets, one.targets)
        for file, same in zip(other.files, one.files, strict=True):
            np.testing.assert_array_equal(file.timestamps_ms, same.timestamps_ms)


@pytest.mark.parametrize("padding_exact", [Zipformer], indirect=True)
def test_scores_of_events(event_task, tmp_path, padding_exact):
    values = [score["value"] for score in scored(event_task(tmp_path), padding_exact, 2.8)]
    assert max(values) - min(values) < 0.2  # six events
