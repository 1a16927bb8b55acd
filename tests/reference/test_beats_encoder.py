"""BeatsEncoder against the released code: every ``<name>_io`` with hidden states, every ``.pt``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ssl_audio
from ssl_audio.batch import valid_mask
from ssl_audio.checkpoints import CheckpointError
from ssl_audio.models import BeatsEncoder
from ssl_audio.models.beats.positions import relative_buckets, without_padding

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
PROBABILITY_TOLERANCE = {"atol": 1e-5, "rtol": 0.0}
# Every file of the folder has a test here or in the file named.
TESTED = {
    "configs.json": "everywhere",
    "README.md": "a text",
    "encoder*": "here",
    "finetuned*": "here",
    "relative_buckets*": "here",
    "tiny_checkpoint*": "here, and of tokenizers in test_distilled",
    "openbeats_pretrain*": "here, the objective in test_beats_pretraining",
    "openbeats_tokenizer*": "test_distilled",
    "tokenizer*": "test_distilled",
    "quantizer_train*": "test_ema_codebook",
    "random_projection*": "test_random_projection",
}


class Case:
    """One pair of files: config, weights, inputs and what came out, with and without mask."""

    def __init__(self, name: str, config: dict[str, Any], state: Any, io: Any) -> None:
        self.name, self.config, self.io = name, config, io
        self.state = state.tensors
        self.encoder = BeatsEncoder.from_state_dict(
            self.state, config | {"padding": "reference"}
        ).eval()
        padded = io.tensors["padding_mask"].bool()
        self.lengths = {"nopad": None, "pad": (~padded).sum(1)}
        assert torch.equal(padded, ~valid_mask(self.lengths["pad"], padded.shape[1]))

    def expected(self, run: str, name: str) -> Tensor | None:
        """What the original gave, also where it is stored once for both runs."""
        tensors = self.io.tensors
        return tensors.get(f"{run}.{name}", tensors.get(f"nopad.{name}"))

    def check(self, run: str, name: str, actual: Tensor, **tolerance: float) -> None:
        expected = self.expected(run, name)
        if expected is not None:  # not every pair records everything
            torch.testing.assert_close(
                actual,
                expected,
                **(tolerance or TOLERANCE),
                msg=lambda text: f"{self.name} {run}.{name}\n{text}",
            )


@pytest.fixture(scope="module")
def cases(golden: Callable[[str], list[Any]], reference_dir: Path) -> list[Case]:
    configs = json.loads((reference_dir / "beats" / "configs.json").read_text())
    states = {file.name.removesuffix("_state"): file for file in golden("beats/*_state")}
    found = []
    for io in golden("beats/*_io"):
        name = io.name.removesuffix("_io")
        if "nopad.hidden_states" in io.tensors:
            found.append(Case(name, configs[name], states[name], io))
    assert found, "no *_io has hidden states"
    return found


def test_every_file_has_a_test(reference_dir: Path) -> None:
    files = [path.name for path in (reference_dir / "beats").iterdir()]
    untested = [name for name in files if not any(fnmatch(name, pattern) for pattern in TESTED)]
    assert not untested


@torch.no_grad()
@pytest.mark.parametrize("run", ["nopad", "pad"])
def test_hidden_states_and_features(cases: list[Case], run: str) -> None:
    for case in cases:
        out = case.encoder(case.io.tensors["waveform"], case.lengths[run])
        case.check(run, "hidden_states", torch.stack(out.hidden_states))
        if case.encoder.predictor is None:
            case.check(run, "output", out.frames)
        assert torch.equal(out.frames, case.encoder.encoder.output(out.hidden_states[-1]))


@torch.no_grad()
def test_probabilities(cases: list[Case]) -> None:
    tuned = [case for case in cases if case.encoder.predictor is not None]
    assert tuned
    for case in tuned:
        for run, lengths in case.lengths.items():
            waveforms = case.io.tensors["waveform"]
            case.check(run, "logits", case.encoder.logits(case.encoder(waveforms, lengths)))
            found = case.encoder.probabilities(waveforms, lengths)
            case.check(run, "output", found, **PROBABILITY_TOLERANCE)


@torch.no_grad()
def test_masks_fold_as_in_the_original(cases: list[Case]) -> None:
    for case in cases:
        encoder = case.encoder
        features, frame_lengths = encoder.features(case.io.tensors["waveform"], case.lengths["pad"])
        frames = ~valid_mask(frame_lengths, features.shape[1])
        assert torch.equal(frames, case.io.tensors["pad.padding_mask_frames"].bool()), case.name
        patches, lengths = encoder.patchify(features, frame_lengths)
        folded = ~valid_mask(lengths, patches.shape[1])
        assert torch.equal(folded, case.io.tensors["pad.padding_mask_patches"].bool()), case.name


@torch.no_grad()
def test_front_end_and_patches(cases: list[Case]) -> None:
    for case in cases:
        encoder, waveforms = case.encoder, case.io.tensors["waveform"]
        features, _ = encoder.features(waveforms, torch.full((len(waveforms),), waveforms.shape[1]))
        case.check("nopad", "fbank", features, atol=1e-3, rtol=0.0)
        conv = encoder.patch_embedding(features[:, None])
        case.check("nopad", "patch_conv", conv)
        case.check("nopad", "patch_normed", encoder.layer_norm(conv.flatten(2).mT))
        for run in case.lengths:
            patches, num_patches = _patches(case, run)
            case.check(run, "encoder_input", patches)
            visible = without_padding(patches, num_patches)
            case.check(run, "pos_conv_out", encoder.encoder.pos_conv(visible))


@torch.no_grad()
@pytest.mark.parametrize("run", ["nopad", "pad"])
def test_first_attention(cases: list[Case], run: str) -> None:
    recorded = [case for case in cases if case.expected(run, "layer0_attn_out") is not None]
    assert recorded
    for case in recorded:
        body, x = case.encoder.encoder, case.expected(run, "hidden_states")[0]
        if body.config.layer_norm_first:
            x = body.layers[0].self_attn_layer_norm(x)
        visible = None
        if run == "pad":
            visible = valid_mask(_patches(case, run)[1], x.shape[1])
        bias = None
        if body.relative_attention_bias is not None:
            bias = body.relative_attention_bias(x.shape[1])
            case.check(run, "layer0_position_bias", bias[0])
        attention = body.layers[0].self_attn
        case.check(run, "layer0_attn_out", attention(x, bias, visible))
        query, key = (
            project(x).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj)
        )
        if attention.gated:
            case.check(run, "layer0_gate", attention.gate(query))
        mask = attention.mask(query, bias, visible)
        if mask is not None and mask.dtype != torch.bool:
            scores = query @ key.mT / query.shape[-1] ** 0.5 + mask
            case.check(run, "layer0_attn_probs_clip1", scores.softmax(-1)[1:2])


@torch.no_grad()
def test_relative_buckets(golden: Callable[[str], list[Any]]) -> None:
    for file in golden("beats/relative_buckets*"):
        offsets = file.tensors["relative_position"].long()
        tables = {name: x for name, x in file.tensors.items() if name.startswith("buckets_")}
        assert tables
        for name, expected in tables.items():
            sizes = re.fullmatch(r"buckets_nb(\d+)_md(\d+)", name)
            assert sizes, name
            found = relative_buckets(offsets, int(sizes[1]), int(sizes[2]))
            assert torch.equal(found, expected.long()), name


@torch.no_grad()
def test_visible_patches_of_openbeats(golden: Callable[[str], list[Any]]) -> None:
    """A quarter of the patches, compacted."""
    states = {file.name.removesuffix("_state"): file for file in golden("beats/openbeats_*_state")}
    for io in golden("beats/openbeats_pretrain*_io"):
        state = states[io.name.removesuffix("_io")]
        encoder = BeatsEncoder.from_state_dict(
            state.below("encoder."), json.loads(state.meta["config"])
        ).eval()
        features = encoder.normalize(io.tensors["fbank"])
        patches, lengths = encoder.patchify(features, io.tensors["fbank_lengths"])
        assert torch.equal(lengths, io.tensors["patch_lengths"])
        kept, counts = io.tensors["kept_positions"], io.tensors["n_kept"]
        index = kept.clamp_min(0)[:, :, None].expand(-1, -1, patches.shape[2])
        out = encoder.encode_patches(patches.gather(1, index), counts)
        valid = valid_mask(counts, kept.shape[1])
        expected = io.tensors["encoder_out"]
        torch.testing.assert_close(out.frames[valid], expected[valid], **TOLERANCE)


@torch.no_grad()
def test_released_files(reference_dir: Path, cases: list[Case]) -> None:
    """The same through ``load_encoder``, by whichever pair has these weights; tokenizers refuse."""
    paths = sorted((reference_dir / "beats").glob("*checkpoint*.pt"))
    assert paths
    for path in paths:
        content = torch.load(path, weights_only=True)
        if "quant_n" in content["cfg"]:
            with pytest.raises(CheckpointError, match="use load_tokenizer"):
                ssl_audio.load_encoder(path)
            continue
        encoder = ssl_audio.load_encoder(path)
        assert isinstance(encoder, BeatsEncoder)
        again = encoder.official_state_dict()
        assert again.keys() == content["model"].keys()
        assert all(torch.equal(again[name], x) for name, x in content["model"].items())
        if "label_dict" in content:
            assert dict(enumerate(encoder.settings.labels)) == content["label_dict"]
        for case in cases:
            if _equal(case.state, content["model"]):
                case.check("nopad", "output", _output(encoder, case))


def _patches(case: Case, run: str) -> tuple[Tensor, Tensor]:
    waveforms, lengths = case.io.tensors["waveform"], case.lengths[run]
    if lengths is None:
        lengths = torch.full((len(waveforms),), waveforms.shape[1])
    return case.encoder.patchify(*case.encoder.features(waveforms, lengths))


def _equal(state: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return state.keys() == other.keys() and all(torch.equal(x, other[n]) for n, x in state.items())


def _output(encoder: BeatsEncoder, case: Case) -> Tensor:
    waveforms = case.io.tensors["waveform"]
    if encoder.predictor is None:
        return encoder(waveforms).frames
    return encoder.probabilities(waveforms)
