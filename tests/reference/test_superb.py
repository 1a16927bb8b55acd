"""SUPERB's featurizer, heads and margin loss against s3prl."""

from __future__ import annotations

import torch

from ssl_audio.probes.superb.asv import am_softmax_loss
from ssl_audio.probes.superb.featurizer import (
    Featurizer,
    match_frames,
    normalised,
    num_matched_frames,
)
from ssl_audio.probes.superb.heads import MeanPoolLinear, mean_pool, mean_std_pool


def test_featurizer(metric_cases) -> None:
    for case in metric_cases("superb_featurizer"):
        lengths = torch.tensor(case["wav_lengths"])
        assert num_matched_frames(lengths, case["stride"]).tolist() == case["frame_lengths"]
        layers = torch.tensor(case["hidden_states"])
        featurizer = Featurizer(len(layers))
        featurizer.logits.data = torch.tensor(case["layer_logits"])
        torch.testing.assert_close(
            featurizer(layers), torch.tensor(case["weighted_sum"]), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            featurizer(normalised(layers)),
            torch.tensor(case["weighted_sum_layernorm"]),
            atol=1e-4,
            rtol=0,
        )
        # What the toy encoder returned is the part before the last frame was repeated or cut.
        kept = min(case["raw_frames"], layers.shape[2])
        whole = torch.full((layers.shape[1],), layers.shape[2])
        again = match_frames(layers[-1, :, :kept], torch.full_like(whole, kept), whole)
        torch.testing.assert_close(again, layers[-1])


def test_heads(metric_cases) -> None:
    checks = {
        "pooling": check_pooling,
        "mean_pooling_linear": check_linear,
        "amsoftmax": check_margin,
    }
    for case in metric_cases("superb_heads"):
        checks[case["kind"]](case)


def check_pooling(case: dict) -> None:
    x, lengths = torch.tensor(case["x"]), torch.tensor(case["lengths"])
    for pool, name in ((mean_pool, "mean"), (mean_std_pool, "mean_std")):
        torch.testing.assert_close(pool(x, lengths), torch.tensor(case[name]), atol=1e-5, rtol=0)


def check_linear(case: dict) -> None:
    ours = {"hidden_layers.0": "projector", "final_proj": "output"}
    state = {}
    for name, value in case["state_dict"].items():
        module, _, kind = name.rpartition(".")
        state[f"{ours[module]}.{kind}"] = torch.tensor(value)
    hidden, dim = state["projector.weight"].shape
    head = MeanPoolLinear(dim, hidden, len(state["output.bias"]))
    head.load_state_dict(state)
    logits = head(torch.tensor(case["x"]), torch.tensor(case["lengths"]))
    torch.testing.assert_close(logits, torch.tensor(case["logits"]), atol=1e-5, rtol=0)


def check_margin(case: dict) -> None:
    x, weights = torch.tensor(case["x"]), torch.tensor(case["W"])
    loss = am_softmax_loss(x, weights, torch.tensor(case["labels"]), case["margin"], case["scale"])
    for name in ("loss", "legacy_loss"):
        torch.testing.assert_close(loss, torch.tensor(case[name]), atol=1e-4, rtol=0)
