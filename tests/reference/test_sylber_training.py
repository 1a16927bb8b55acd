"""Sylber's distillation step, mixer, EMA and schedule against the released code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ssl_audio.data.noise_mixing import NoiseDraws, NoiseMixing
from ssl_audio.models import HubertEncoder
from ssl_audio.models.ema import EMA
from ssl_audio.optim.hold_cosine import warmup_hold_cosine_lr
from ssl_audio.tasks.spear import TokenSpec
from ssl_audio.tasks.sylber import SylberTask
from ssl_audio.tasks.syllable_loss import labels_from_segments
from ssl_audio.tokenizers.norm_threshold import NormThreshold

STATISTICS = ("signal_mean", "signal_var", "noise_mean", "noise_var")


@pytest.fixture(scope="module")
def backbone(reference_dir: Path) -> Callable[..., HubertEncoder]:
    """``backbone(weights)``: the truncated tiny HuBERT with other weights, or with its own."""
    (path,) = (reference_dir / "sylber").glob("hubert_*_config.json")
    config = json.loads(path.read_text())
    changes = {"num_hidden_layers": config["kept_layers"], "padding": "reference"}
    (own,) = path.parent.glob(f"{path.name.removesuffix('_config.json')}_*layer.safetensors")

    def build(weights: dict[str, Tensor] | None = None) -> HubertEncoder:
        return HubertEncoder.from_state_dict(weights or load_file(own), config | changes)

    return build


@pytest.fixture(scope="module")
def cases(golden: Callable[[str], list[Any]], reference_dir: Path) -> list[tuple[Any, dict]]:
    settings = json.loads((reference_dir / "sylber" / "train.json").read_text())["cases"]
    files = {file.name: file for file in golden("sylber/train_stage*")}
    assert len(files) == len(settings)
    return [(files[f"train_stage{case['stage']}"], case) for case in settings]


def task(case: dict, golden: Any, backbone: Callable[..., HubertEncoder]) -> SylberTask:
    online = "stats_before" in case
    merge = case["merge_threshold"]
    built = SylberTask(
        backbone(golden.below("student/")),
        {} if online else {"segments": TokenSpec(1, 3, 50.0)},
        None,
        ema_decay=case["ema_decay"],
        noise_mixing={
            "augment_prob": 0.2,
            "utterance_prob": 0.25,
            "shift_range": (0, 0.7),
            "gain_range": (0.05, 0.7),
            "max_utterance_gain": 0.2,
        },
        norm_threshold=dict(case["stats_before"], decay=case["decay"], eta=case["eta"])
        if online
        else None,
        merge_threshold=(merge, merge),
        count_padding=True,
        alarm_cosine=0.9,
        optimizer={"lr": 1e-4, "clip_norm": 0.5},
        schedule={"warmup_steps": 0},
        seed=0,
        max_steps=1,
    )
    if online:
        for name in STATISTICS:
            getattr(built.norm_threshold, name).copy_(
                golden.tensors[f"thresholder_before/{name}"][0]
            )
    built.teacher.module = backbone().eval().requires_grad_(False)
    return built.eval()


def test_distillation_step(cases: list[tuple[Any, dict]], backbone: Any) -> None:
    for golden, case in cases:
        model = task(case, golden, backbone)
        tensors = golden.tensors
        labels = None
        if model.tokens:
            num_frames = tensors["target"].shape[1]
            labels = torch.stack(
                [
                    labels_from_segments(rows[rows[:, 0] >= 0], num_frames)
                    for rows in tensors["segments"].long()
                ]
            )
        step = model.distill(
            tensors["input_values"].float(),
            tensors["student_input_values"].float(),
            tensors["attention_mask"].sum(1).long(),
            labels,
            case["merge_threshold"],
        )
        for name, actual in (("teacher", step.teacher), ("student", step.student)):
            torch.testing.assert_close(actual, tensors[f"{name}_states"], atol=1e-5, rtol=0)
        torch.testing.assert_close(step.target, tensors["target"], atol=1e-5, rtol=0)
        assert (step.target[step.ids < 0] == 0).all()
        assert (step.ids.amax(1) + 1).tolist() == case["n_segments"]
        loss = step.loss.total / step.loss.num_frames
        torch.testing.assert_close(loss, tensors["loss"][0], rtol=1e-5, atol=0)
        loss.backward()
        gradients = {name: p.grad for name, p in model.encoder.named_parameters()}
        for name, expected in golden.below("grad/").items():
            error = (gradients[name] - expected).abs().max()
            assert error <= 1e-4 * expected.abs().max(), name
        assert all(p.grad is None for p in model.teacher.parameters())
        check_threshold(model, step, case, golden)


def check_threshold(model: SylberTask, step: Any, case: dict, golden: Any) -> None:
    threshold = model.norm_threshold
    if not isinstance(threshold, NormThreshold):
        return
    assert float(threshold()) == pytest.approx(case["norm_threshold"], rel=1e-5)
    model.follow_norms(step)
    for name in STATISTICS:
        expected = golden.tensors[f"thresholder_after/{name}"][0]
        torch.testing.assert_close(getattr(threshold, name), expected, atol=1e-6, rtol=0)
    assert float(threshold()) == pytest.approx(case["threshold_after"], rel=1e-5)


def settings_of(name: str, reference_dir: Path) -> list[tuple[Path, Any]]:
    found = [
        (path, json.loads(path.read_text())[name])
        for path in sorted((reference_dir / "sylber").glob("modules*.json"))
    ]
    assert found
    return found


def test_noise_mixer(golden: Callable[[str], list[Any]], reference_dir: Path) -> None:
    for (_, configs), file in zip(
        settings_of("noise_mixer", reference_dir), golden("sylber/noise_mixer*"), strict=True
    ):
        for number, config in enumerate(configs):
            tensors = file.below(f"{number}/")
            mixing = NoiseMixing(
                config["augment_prob"],
                config["utterance_mix_ratio"],
                tuple(config["shift_range"]),
                tuple(config["magnitude_range"]),
                config["utterance_magnitude_max_scale"],
            )
            names = (
                "augment",
                "utterance_mix",
                "shift",
                "side",
                "magnitude",
                "utterance_magnitude",
            )
            draws = NoiseDraws(
                *(tensors[f"u_{name}"] for name in names), tensors["permutation"].long()
            )
            mixed = mixing(tensors["wav"], tensors["noise"], draws)
            torch.testing.assert_close(mixed, tensors["output"], atol=1e-6, rtol=0)


def test_ema(golden: Callable[[str], list[Any]]) -> None:
    for file in golden("sylber/modules*"):
        before, student = file.below("ema/teacher_before/"), file.below("ema/student/")
        (decay,) = {
            name.split("/")[1].removeprefix("teacher_after_")
            for name in file.tensors
            if name.startswith("ema/teacher_after_")
        }
        teacher = EMA(holding(before), float(decay))
        teacher.update(holding(student))
        for name, expected in file.below(f"ema/teacher_after_{decay}/").items():
            actual = teacher.module.get_parameter(name.replace(".", "_"))
            torch.testing.assert_close(actual, expected, atol=1e-7, rtol=0, check_dtype=False)


def holding(tensors: dict[str, Tensor]) -> nn.Module:
    module = nn.Module()
    for name, x in tensors.items():
        module.register_parameter(name.replace(".", "_"), nn.Parameter(x))
    return module


def test_learning_rate(reference_dir: Path) -> None:
    for _, rows in settings_of("lr_factor", reference_dir):
        for row in rows:
            factor = warmup_hold_cosine_lr(
                1.0,
                row["step"],
                row["warmup_steps"],
                row["total_steps"],
                hold_steps=row["hold_steps"],
                min_factor=row["min_factor"],
            )
            assert factor == pytest.approx(row["factor"], rel=1e-9)
