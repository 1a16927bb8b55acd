"""SD-HuBERT's loss, centre and aggregator against the released code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_audio.models.sdhubert import SdHubertEncoder
from ssl_audio.tasks.sentence_loss import LogitCenter, sentence_loss


@pytest.fixture(scope="module")
def cases(golden: Callable[[str], list[Any]], reference_dir: Path) -> list[tuple[Any, dict]]:
    folder = reference_dir / "sylber"
    return [
        (file, json.loads((folder / f"{file.name}.json").read_text()))
        for file in golden("sylber/sdhubert*")
    ]


def test_loss_and_centre_of_consecutive_batches(cases: list[tuple[Any, dict]]) -> None:
    for file, settings in cases:
        num_classes = file.tensors["0/center_before"].shape[0]
        center = LogitCenter(num_classes, settings["center_momentum"])
        center.center.copy_(file.tensors["0/center_before"])
        for row in settings["steps"]:
            tensors = file.below(f"{row['step']}/")
            torch.testing.assert_close(center.center, tensors["center_before"])
            center.update(tensors["teacher_logits"])
            torch.testing.assert_close(center.center, tensors["center_after"])
            loss = sentence_loss(
                tensors["student_logits"],
                tensors["teacher_logits"],
                center.center,
                student_temperature=settings["temp_student"],
                teacher_temperature=settings["temp_teacher"],
            )
            torch.testing.assert_close(loss.sum(), tensors["loss"][0], rtol=1e-4, atol=0)


@torch.no_grad()
def test_states_with_the_aggregator(cases: list[tuple[Any, dict]], reference_dir: Path) -> None:
    (path,) = (reference_dir / "sylber").glob("hubert_*_config.json")
    config = json.loads(path.read_text()) | {"padding": "reference"}
    for file, _ in cases:
        tensors = file.below("inference/")
        weights = {**file.below("speech_model/"), "cls_token": tensors["cls_token"]}
        encoder = SdHubertEncoder.from_state_dict(weights, config).eval()
        waves = tensors["wav"]
        states = encoder.sentence_states(*encoder.project(waves))
        frames = encoder.forward_features(waves).hidden_states
        for index, (state, frame_state) in enumerate(zip(states, frames, strict=True)):
            expected = tensors[f"hidden_states_{index}"]
            torch.testing.assert_close(state, expected, atol=1e-5, rtol=0)
            assert torch.equal(frame_state, state[:, 1:])
