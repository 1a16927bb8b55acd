from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssl_audio.batch import AUDIO, IGNORE_CODE, SPEECH
from ssl_audio.tasks.spear_loss import spear_loss

NUM_CODEBOOKS = {"speech": 3, "audio": 2}
NUM_FRAMES, NUM_CODES = 9, 5


@pytest.fixture
def batch() -> dict:
    generator = torch.Generator().manual_seed(0)
    logits, codes = {}, {}
    for name, num_codebooks in NUM_CODEBOOKS.items():
        shape = (4, NUM_FRAMES, num_codebooks)
        logits[name] = torch.randn(*shape, NUM_CODES, generator=generator)
        codes[name] = torch.randint(NUM_CODES, shape, generator=generator)
    codes["audio"][0] = IGNORE_CODE  # a speech clip has no audio codes
    codes["speech"][1, 2, 0] = IGNORE_CODE  # one codebook of one frame
    codes["speech"][3, 7:] = IGNORE_CODE  # codes that end before the clip
    return {
        "logits": logits,
        "codes": codes,
        "domains": torch.tensor([SPEECH, AUDIO, SPEECH, AUDIO]),
        "lengths": torch.tensor([9, 8, 4, 9]),
        "mask": torch.rand(4, NUM_FRAMES, generator=generator) < 0.5,
    }


def naive_total(
    batch: dict, weights: dict[str, list[float]], alpha: float
) -> tuple[float, dict[tuple[str, bool], float]]:
    """The paper's formula, one code at a time."""
    total, parts = 0.0, {}
    for name, num_codebooks in NUM_CODEBOOKS.items():
        log_probs = batch["logits"][name].double().log_softmax(-1)
        for b, length in enumerate(batch["lengths"].tolist()):
            for t in range(length):
                for n in range(num_codebooks):
                    code = int(batch["codes"][name][b, t, n])
                    if code == IGNORE_CODE or weights[name][b] == 0:
                        continue
                    masked = bool(batch["mask"][b, t])
                    nats = -log_probs[b, t, n, code].item() / num_codebooks
                    parts[name, masked] = parts.get((name, masked), 0.0) + nats
                    total += weights[name][b] * 2 * (alpha if masked else 1 - alpha) * nats
    return total, parts


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(
    ("strategy", "weights"),
    [
        ("joint", {"speech": [1, 1, 1, 1], "audio": [0.1] * 4}),
        ("disjoint", {"speech": [1, 0, 1, 0], "audio": [0, 0.1, 0, 0.1]}),
        ("asymmetric", {"speech": [1, 1, 1, 1], "audio": [0, 0.1, 0, 0.1]}),
    ],
)
def test_total_is_the_papers_sum(batch: dict, strategy: str, weights: dict, alpha: float) -> None:
    loss = spear_loss(**batch, strategy=strategy, alpha=alpha, audio_scale=0.1)
    total, parts = naive_total(batch, weights, alpha)
    assert loss.total.item() == pytest.approx(total, rel=1e-5)
    for (name, masked), nats in parts.items():
        sums = loss.teachers[name].masked if masked else loss.teachers[name].unmasked
        assert sums.loss.item() == pytest.approx(nats, rel=1e-5)


def test_counts(batch: dict) -> None:
    loss = spear_loss(**batch)
    speech = loss.teachers["speech"]
    assert loss.num_frames.item() == 9 + 8 + 4 + 9  # clip 3 has audio codes to its end
    assert (speech.masked.num_frames + speech.unmasked.num_frames).item() == 9 + 8 + 4 + 7
    num_codes = speech.masked.num_codes + speech.unmasked.num_codes
    assert num_codes.tolist() == [27, 28, 28]


def test_correct_predictions_are_counted_per_codebook(batch: dict) -> None:
    codes = batch["codes"]["speech"].clamp(min=0)
    batch["logits"]["speech"] = torch.nn.functional.one_hot(codes, NUM_CODES).float()
    batch["logits"]["speech"][:, :, 2] *= -1
    speech = spear_loss(**batch).teachers["speech"]
    for sums in (speech.masked, speech.unmasked):
        assert sums.num_correct[:2].tolist() == sums.num_codes[:2].tolist()
        assert sums.num_correct[2] == 0


def test_parts_of_a_batch_add_up(batch: dict) -> None:
    whole = spear_loss(**batch)
    halves = [spear_loss(**select(batch, clips)) for clips in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(whole.total, halves[0].total + halves[1].total)
    assert whole.num_frames == halves[0].num_frames + halves[1].num_frames
    clip_loss = torch.cat([half.teachers["speech"].clip_loss for half in halves])
    torch.testing.assert_close(whole.teachers["speech"].clip_loss, clip_loss)


def select(batch: dict, clips: slice) -> dict:
    def pick(value: Tensor | dict) -> Tensor | dict:
        return {k: v[clips] for k, v in value.items()} if isinstance(value, dict) else value[clips]

    return {name: pick(value) for name, value in batch.items()}


def test_frames_beyond_the_length_count_only_on_request(batch: dict) -> None:
    assert spear_loss(**batch, count_beyond_length=True).num_frames == 4 * NUM_FRAMES
    padded = batch["logits"]["speech"][2, 4:].fill_(math.nan)
    assert padded.isnan().all()
    assert spear_loss(**batch).total.isfinite()


def test_without_a_mask_alpha_has_no_say(batch: dict) -> None:
    batch["mask"] = None
    plain = spear_loss(**batch, alpha=0.5)
    torch.testing.assert_close(spear_loss(**batch, alpha=0.9).total, plain.total)
    assert plain.teachers["speech"].masked.num_frames == 0


def test_one_teacher_alone(batch: dict) -> None:
    both = spear_loss(**batch, strategy="asymmetric")
    alone = batch | {"logits": {"audio": batch["logits"]["audio"]}}
    loss = spear_loss(**alone, strategy="disjoint", audio_scale=1.0)
    assert loss.teachers.keys() == {"audio"}
    audio = both.teachers["audio"]
    torch.testing.assert_close(loss.total, audio.masked.loss + audio.unmasked.loss)


def test_a_batch_without_targets_gives_zero_and_zero_gradients(batch: dict) -> None:
    for name in NUM_CODEBOOKS:
        batch["codes"][name].fill_(IGNORE_CODE)
        batch["logits"][name].requires_grad_()
    loss = spear_loss(**batch)
    loss.total.backward()
    assert loss.total == 0
    assert loss.num_frames == 0
    assert all((logits.grad == 0).all() for logits in batch["logits"].values())


def test_low_precision_logits_are_summed_in_float32(batch: dict) -> None:
    half = {name: logits.bfloat16() for name, logits in batch["logits"].items()}
    loss = spear_loss(**(batch | {"logits": half}))
    exact = spear_loss(**(batch | {"logits": {name: x.float() for name, x in half.items()}}))
    assert loss.total.dtype == torch.float32
    torch.testing.assert_close(loss.total, exact.total)


def test_wrong_settings_are_named(batch: dict) -> None:
    with pytest.raises(ValueError, match="unknown strategy 'both', choose one of joint, disjoint"):
        spear_loss(**batch, strategy="both")
    with pytest.raises(ValueError, match=r"alpha is 1\.2"):
        spear_loss(**batch, alpha=1.2)
    batch["logits"]["music"] = batch["logits"]["audio"]
    with pytest.raises(ValueError, match="got music"):
        spear_loss(**batch)
