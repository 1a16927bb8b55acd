from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_audio.batch import IGNORE_CODE, Tokens, full_lengths, valid_mask
from ssl_audio.probes.suite import Example, ProbeClip
from ssl_audio.probes.tokens import labels_at, token_quality
from ssl_audio.tokenizers.tokenizer import Tokenizer

HOP = 320


class LoudnessTokenizer(Tokenizer):
    """Codebook 0: is the 20 ms frame loud; codebook 1: always 0."""

    kind = "loudness"
    frame_rate = 50.0
    codebook_size = 4
    num_codebooks = 2

    @property
    def config(self) -> dict[str, Any]:
        return {}

    def num_frames(self, num_samples: Any) -> Any:
        return num_samples // HOP

    def encode(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tokens:
        counts = self.num_frames(full_lengths(waveforms) if lengths is None else lengths)
        frames = waveforms[:, : waveforms.shape[1] // HOP * HOP].unflatten(1, (-1, HOP))
        loud = (frames.square().mean(2) > 0.01).long()
        codes = torch.stack([loud, torch.zeros_like(loud)], dim=2)
        mask = valid_mask(counts, codes.shape[1])[..., None]
        return Tokens(codes.masked_fill(~mask, IGNORE_CODE), counts)


def test_a_tokenizer_that_knows_one_task(tone_suite):
    found = token_quality(LoudnessTokenizer(), tone_suite)
    loud = found["agreement"]["half"]["each"][0]
    assert loud["label_purity"] > 0.95
    assert loud["pnmi"] > 0.75
    assert found["agreement"]["loud"]["each"][0]["pnmi"] == pytest.approx(1)
    assert found["agreement"]["tone"]["each"][0]["pnmi"] < 0.05
    assert found["agreement"]["half"]["each"][1]["pnmi"] == 0  # the constant codebook
    assert found["codebooks"]["each"][0]["utilisation"] == 0.5
    assert found["codebooks"]["min"]["perplexity"] == 1
    assert found["codebooks"]["mean"]["utilisation"] == pytest.approx((0.5 + 0.25) / 2)
    assert found["tokens_per_sec"] == pytest.approx(100, rel=0.05)
    assert found["bits_per_sec"] == pytest.approx(2 * found["tokens_per_sec"])
    assert found["redundancy_nats"] == 0
    assert found["warnings"] == []


def test_the_same_numbers_for_any_batch(tone_suite):
    tokenizer = LoudnessTokenizer()
    one, many = (token_quality(tokenizer, tone_suite, batch_sec=sec) for sec in (0.1, 60))
    assert json.dumps(one) == json.dumps(many)


def test_splits_choose_the_clips(tone_suite):
    found = token_quality(LoudnessTokenizer(), tone_suite, splits=("test",))
    assert found["num_clips"] == 18


def test_unreadable_clips_are_listed_and_left_out(make_suite):
    suite = make_suite((6, 3, 3))
    suite.clips["train-0"] = ProbeClip("train-0", b"nothing", 0.5)
    found = token_quality(LoudnessTokenizer(), suite)
    assert found["num_clips"] == 11
    assert len(found["warnings"]) == 1
    suite.clips.update({name: ProbeClip(name, b"nothing", 0.5) for name in suite.clips})
    with pytest.raises(ValueError, match="no clip of suite 'tones' gives tokens"):
        token_quality(LoudnessTokenizer(), suite)


def test_a_tokenizer_without_codes_is_refused(tone_suite):
    tokenizer = LoudnessTokenizer()
    tokenizer.num_codebooks = 0
    with pytest.raises(ValueError, match="fit units"):
        token_quality(tokenizer, tone_suite)


def test_one_codebook_has_no_redundancy(tone_suite):
    class First(LoudnessTokenizer):
        num_codebooks = 1

        def encode(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tokens:
            tokens = super().encode(waveforms, lengths)
            return Tokens(tokens.codes[..., :1], tokens.lengths)

    assert math.isnan(token_quality(First(), tone_suite)["redundancy_nats"])


def test_labels_by_time():
    examples = [Example("c", "b", 1.0, 2.0), Example("c", "a", 0.0, 1.0), Example("c", "z", 3.0)]
    assert labels_at([0.5, 1.0, 2.5, 9.0, -1.0], examples) == ["a", "b", None, "z", None]
    assert labels_at([0.5], []) == [None]
