from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ssl_audio.probes.superb.asv import (
    LOST_FRAMES,
    SpeakerVerification,
    XVector,
    am_softmax_loss,
    without_silence,
)
from ssl_audio.probes.superb.heads import mean_std_pool
from ssl_audio.probes.superb.task import Recipe, Settings

OPTIONS = {
    "min_train_sec": 0.1,
    "max_train_sec": 0.6,
    "valid_speakers": 3,
    "valid_trials": 20,
    "width": 8,
    "pooled": 12,
    "margin": 0.2,
    "scale": 10.0,
}


def recipe(**changes) -> Recipe:
    row = {"folder": ".", "lrs": [1e-2], "steps": 16, "eval_every": 8, "batch_size": 8, **OPTIONS}
    return Recipe.of({**row, "optimizer": "adamw", "max_grad_norm": 1000.0, **changes})


def test_time_delay_layers_see_their_context():
    torch.manual_seed(0)
    head = XVector(5, 8, 12, 4).eval()
    x = torch.randn(1, 20, 5)
    frames = head.projector(x)
    for layer, (width, dilation) in zip(head.layers, ((5, 1), (3, 2), (3, 3)), strict=False):
        windows = [
            torch.cat([frames[:, t + k * dilation] for k in range(width)], dim=-1)
            for t in range(frames.shape[1] - (width - 1) * dilation)
        ]
        weight = layer.weight.transpose(1, 2).flatten(1)  # as one Linear over joined frames
        frames = torch.relu(functional.linear(torch.stack(windows, 1), weight, layer.bias))
    for layer in head.layers[3:]:
        frames = torch.relu(functional.linear(frames, layer.weight[..., 0], layer.bias))
    assert frames.shape == (1, 20 - LOST_FRAMES, 12)
    pooled = mean_std_pool(frames, torch.tensor([6]))
    wanted = torch.relu(head.embedding(pooled))
    torch.testing.assert_close(head(x, torch.tensor([20]))[0], wanted)
    trained = head.train()(x, torch.tensor([20]))[0]
    torch.testing.assert_close(trained, torch.relu(head.output(wanted)))


def test_a_clip_alone_equals_the_clip_in_a_batch():
    torch.manual_seed(0)
    head = XVector(5, 8, 12, 4).eval()
    x = torch.randn(3, 40, 5)
    lengths = torch.tensor([40, 22, 3])
    together, _ = head(x, lengths)
    for row in range(2):  # the third is shorter than the context, and what is behind it counts
        alone, _ = head(x[row : row + 1, : lengths[row]], lengths[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)
    assert bool(together.isfinite().all())


def test_the_margin_is_taken_off_the_right_speaker():
    vectors = nn.Parameter(torch.randn(6, 4))
    speakers, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    cosines = functional.cosine_similarity(vectors[:, :, None], speakers[None], dim=1)
    cosines[torch.arange(6), labels] -= 0.3
    wanted = functional.cross_entropy(20 * cosines, labels)
    torch.testing.assert_close(am_softmax_loss(vectors, speakers, labels, 0.3, 20.0), wanted)


def test_silence_is_cut_out():
    rng = np.random.default_rng(0)
    loud = (0.1 * rng.standard_normal(8_000)).astype(np.float32)
    long, short = np.zeros(3_200, np.float32), np.zeros(1_200, np.float32)
    kept = without_silence(np.concatenate([long, loud, long, loud, short, loud]))
    assert len(kept) == pytest.approx(3 * 8_000 + 1_200, abs=4 * 320)
    assert len(without_silence(long)) == len(long)


def test_speakers_that_validate_do_not_train(speakers, tmp_path):
    task = SpeakerVerification(speakers(tmp_path), recipe(), seed=0)
    task.prepare("ours")
    owners = {split: {u.id.split("/")[0] for u in found} for split, found in task.splits.items()}
    assert [len(owners[split]) for split in ("train", "valid", "test")] == [5, 3, 2]
    assert not owners["train"] & (owners["valid"] | owners["test"])
    assert len(task.trials["valid"]) == 20
    assert sum(trial.same for trial in task.trials["valid"]) == 10
    for trial in task.trials["valid"]:
        assert trial.same == (trial.first.split("/")[0] == trial.second.split("/")[0])
        assert trial.first != trial.second
    again = SpeakerVerification(tmp_path, recipe(), seed=0)
    again.prepare("ours")
    assert again.trials["valid"] == task.trials["valid"]
    task.prepare("compat")
    assert len(task.label) == 8


@pytest.mark.parametrize("protocol", ["ours", "compat"])
def test_voices_are_told_apart(speakers, tmp_path, layers, protocol):
    task = SpeakerVerification(speakers(tmp_path), recipe(), seed=0)
    (fold,) = task.run(layers, Settings(protocol)).folds
    assert fold.chosen["on"] == {"ours": "valid", "compat": "test"}[protocol]
    assert fold.scores["eer"] < 0.25
    assert fold.interval[0] <= fold.scores["eer"] <= fold.interval[1]
    assert fold.num_test == 7


def test_trials_that_cannot_be_used(speakers, tmp_path):
    root = speakers(tmp_path)
    trials = root / "veri_test.txt"
    good = trials.read_text()
    for text, message in (
        (good + "\n1 id10009/video/00000.wav", r"line 13: .* is not 0 or 1 and two files"),
        (good.replace("00003", "99999"), r"of veri_test.txt is missing, 2 in all"),
        (good.splitlines()[0], r"has trials of one kind only"),
    ):
        trials.write_text(text)
        with pytest.raises(ValueError, match=message):
            SpeakerVerification(root, recipe(), 0)
