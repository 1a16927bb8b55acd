"""Sylber's inference path: every item of ``segmenter_e2e*``, from audio to segments."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from ssl_audio import audio
from ssl_audio.models import HubertEncoder
from ssl_audio.tokenizers import SyllableTokenizer
from ssl_audio.tokenizers.syllables_batch import pooled_segments, segment_ids


@pytest.fixture(scope="module")
def backbone(reference_dir):
    """``backbone(padding)``: the truncated encoder that the items were run with."""
    path = min((reference_dir / "sylber").glob("hubert_*_config.json"))
    config = json.loads(path.read_text())
    stem = path.name.removesuffix("_config.json")
    (weights,) = path.parent.glob(f"{stem}_*layer.safetensors")

    def load(padding):
        changes = {"padding": padding, "num_hidden_layers": config["kept_layers"]}
        encoder = HubertEncoder.from_checkpoint(weights, config | changes)
        return encoder.eval()

    return load


@pytest.fixture(scope="module")
def items(golden, reference_dir):
    """(settings, tensors of the item) for each item of each file"""
    folder = reference_dir / "sylber"
    return [
        (row, case.below(f"{row['name']}/"))
        for case in golden("sylber/segmenter_e2e*")
        for row in json.loads((folder / f"{case.name}.json").read_text())["items"]
    ]


@torch.no_grad()
def test_segments_of_padded_waveforms(backbone, items):
    """The original segments padding too, and sums over it in its group norm."""
    encoder = backbone("reference")
    checked = 0
    for row, expected in items:
        if "0/wav" not in expected:
            continue
        waves = [expected[f"{index}/wav"] for index in range(row["n_items"])]
        lengths = torch.tensor([len(wave) for wave in waves])
        frames = encoder.forward_features(pad_sequence(waves, batch_first=True), lengths).frames
        tokenizer = tokenizer_of(encoder, row)
        check(tokenizer, frames, expected)
        checked += 1
    assert checked


def test_segments_of_recordings(backbone, items, reference_dir):
    encoder = backbone("exact")
    checked = 0
    for row, expected in items:
        if "0/wav" in expected:
            continue
        waveform = audio.read(reference_dir / "sylber" / f"{row['name']}.flac")
        tokenizer = tokenizer_of(encoder, row)
        frames = encoder(torch.from_numpy(waveform)[None]).frames
        check(tokenizer, frames, expected)
        tokens = tokenizer.encode(torch.from_numpy(waveform)[None])
        found = torch.stack([tokens.starts, tokens.ends], -1)[0]
        seconds = found.double() / tokenizer.frame_rate
        torch.testing.assert_close(seconds, expected["0/segments_sec"], atol=1e-12, rtol=0)
        checked += 1
    assert checked


def tokenizer_of(encoder, row):
    return SyllableTokenizer(
        encoder, norm_threshold=row["norm_threshold"], merge_threshold=row["merge_threshold"]
    )


@torch.no_grad()
def check(tokenizer, frames, expected):
    segments = tokenizer.options.segment(frames, None)
    means = pooled_segments(frames, segment_ids(segments, frames.shape[1]), frames.shape[1])
    for index, (found, mean) in enumerate(zip(segments, means, strict=True)):
        want = expected[f"{index}/segments"].long()
        assert torch.equal(found[: len(want)], want)
        assert (found[len(want) :] == -1).all()
        features = expected[f"{index}/segment_features"]
        torch.testing.assert_close(mean[: len(want)], features, atol=1e-5, rtol=0)
