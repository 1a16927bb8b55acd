"""HEAR's network, splits and complete probe runs against hear-eval-kit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ssl_audio.probes.hear.grid import GridPoint, shuffled_grid
from ssl_audio.probes.hear.mlp import MLPStack, losses, probabilities
from ssl_audio.probes.hear.protocol import (
    Embeddings,
    Problem,
    aggregate,
    data_splits,
    run_rotations,
)
from ssl_audio.probes.hear.scoring import FileFrames
from ssl_audio.probes.metrics.events import Event, frame_targets


def test_network(metric_cases) -> None:
    for case in metric_cases("hear_mlp_head"):
        state = {name: torch.tensor(values) for name, values in case["state_dict"].items()}
        x, targets = torch.tensor(case["x"]), torch.tensor(case["targets"])
        multilabel = case["prediction_type"] == "multilabel"
        point = GridPoint(
            case["hidden_layers"],
            1e-3,
            case["init"].removesuffix("_"),
            hidden_dim=case["hidden_dim"],
            dropout=0.0,
        )
        stack = MLPStack(x.shape[1], targets.shape[1], [point, point])
        stack.load([state, state])
        for mode, suffix in ((stack.eval, ""), (stack.train, "_dropout0")):
            mode()
            kind = "train" if suffix else "eval"
            logits = stack(x)
            for row in range(2):
                want = torch.tensor(case[f"{kind}_logits{suffix}"])
                torch.testing.assert_close(logits[row], want, atol=1e-5, rtol=0)
                loss = losses(logits, targets, multilabel)[row]
                assert loss.item() == pytest.approx(case[f"{kind}_loss{suffix}"], abs=1e-5)
            if not suffix:
                want = torch.tensor(case["eval_probabilities"])
                got = probabilities(logits, multilabel)[0]
                torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_splits_folds_and_grid(metric_cases) -> None:
    for case in metric_cases("hear_protocol"):
        match case["kind"]:
            case "kfold":
                check_splits(data_splits(case["folds"], "presplit_kfold"), case["data_splits"])
            case "metadata":
                metadata = case["metadata"]
                got = data_splits(metadata["splits"], metadata["split_mode"])
                check_splits(got, case["data_splits"])
            case "aggregate":
                got = aggregate(list(case["results"].values()))
                assert got == pytest.approx(case["aggregated"], abs=1e-12)
            case "grid_order_seed42":
                check_grid(case)
            case kind:
                raise AssertionError(f"no test for {kind}")


def check_splits(got, want) -> None:
    assert [
        {name: list(getattr(split, name)) for name in ("train", "valid", "test")} for split in got
    ] == want


def check_grid(case) -> None:
    got = shuffled_grid()
    assert len(got) == case["n_total"]
    for point, want in zip(got, case["order"], strict=True):
        assert (point.hidden_layers, point.lr, f"{point.init}_") == (
            want["hidden_layers"],
            want["lr"],
            want["init"],
        )
        assert (point.hidden_dim, point.dropout) == (want["hidden_dim"], want["dropout"])


def problem_of(case) -> Problem:
    metadata = case["metadata"]
    return Problem(
        labels=tuple(case["labels"]),
        scores=tuple(metadata["evaluation"]),
        multilabel=metadata["prediction_type"] == "multilabel",
        is_event=metadata["embedding_type"] == "event",
    )


def scene_data(part, problem) -> Embeddings:
    targets = np.zeros((len(part["labels"]), len(problem.labels)), dtype=np.uint8)
    targets[np.arange(len(targets)), part["labels"]] = 1
    return Embeddings(torch.tensor(part["embeddings"]), targets)


def event_data(part, problem) -> Embeddings:
    rows, targets, files, events = [], [], [], {}
    first = 0
    for name, file in part.items():
        times = np.array(file["timestamps_ms"])
        events[name] = [Event(e["label"], e["start"], e["end"]) for e in file["events"]]
        rows.append(torch.tensor(file["embeddings"]))
        targets.append(frame_targets(events[name], times, problem.labels))
        files.append(FileFrames(name, first, first + len(times), times))
        first += len(times)
    return Embeddings(torch.cat(rows), np.concatenate(targets), tuple(files), events)


def test_complete_runs_lie_in_the_band(metric_cases) -> None:
    for case in metric_cases("hear_end_to_end"):
        problem = problem_of(case)
        make = event_data if problem.is_event else scene_data
        data = {name: make(part, problem) for name, part in case["inputs"].items()}
        rotations = data_splits(list(data), "trainvaltest")
        found = [
            run_rotations(problem, data, rotations, protocol="heareval", seed=seed)[0]
            for seed in range(3)
        ]
        want = case["reference_scores"]
        for name, band in case["band"].items():
            values = [
                score.validation
                if name == "validation_score"
                else score.test[name.removeprefix("test_")]
                for score in found
            ]
            assert all(map(math.isfinite, values)), (case["kind"], name, values)
            assert np.mean(values) == pytest.approx(want[name], abs=band), (case["kind"], name)
