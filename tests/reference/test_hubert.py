"""HuBERT against transformers: every ``sylber/hubert_*`` with config, weights and in/outputs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ssl_audio import audio
from ssl_audio.models import HubertEncoder
from ssl_audio.models.padding import normalized

pytestmark = pytest.mark.filterwarnings("error")


@dataclass(frozen=True)
class Case:
    """One backbone; ``kept`` layers are what Sylber's truncation leaves of it."""

    name: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]

    @property
    def kept(self) -> int:
        return self.config["kept_layers"]

    def model(self, num_layers: int, padding: str = "reference") -> HubertEncoder:
        changes = {"num_hidden_layers": num_layers, "padding": padding}
        return HubertEncoder.from_state_dict(self.weights, self.config | changes).eval()


@pytest.fixture(scope="module")
def cases(reference_dir: Path) -> list[Case]:
    found = []
    for path in sorted((reference_dir / "sylber").glob("hubert_*_config.json")):
        stem = path.name.removesuffix("_config.json")
        (weights,) = path.parent.glob(f"{stem}_*layer.safetensors")
        tensors = load_file(path.with_name(f"{stem}_io.safetensors"))
        found.append(Case(stem, json.loads(path.read_text()), load_file(weights), tensors))
    assert found, "no hubert_*_config.json"
    return found


def close(actual: Tensor, expected: Tensor, where: str, atol: float = 1e-5) -> None:
    torch.testing.assert_close(
        actual, expected, atol=atol, rtol=0, msg=lambda text: f"{where}\n{text}"
    )


@torch.no_grad()
@pytest.mark.parametrize("padding", ["exact", "reference"])
def test_every_hidden_state_of_one_clip(cases: list[Case], padding: str) -> None:
    for case in cases:
        model = case.model(case.config["num_hidden_layers"], padding)
        wave = case.tensors["wav_segmenter_norm"][None]
        close(model.feature_extractor(wave, None)[0], case.tensors["conv_features"], case.name)
        close(model.project(wave)[0][0], case.tensors["projected"], case.name)
        states = model.forward_features(wave).hidden_states
        assert len(states) == sum(name.startswith("hidden_states_") for name in case.tensors)
        for index, state in enumerate(states):
            close(state[0], case.tensors[f"hidden_states_{index}"], f"{case.name} {index}")


@torch.no_grad()
def test_first_layers_alone(cases: list[Case]) -> None:
    for case in cases:
        expected = case.tensors[f"last_hidden_state_{case.kept}layer"]
        out = case.model(case.kept).forward_features(case.tensors["wav_segmenter_norm"][None])
        close(out.frames[0], expected, case.name)
        assert out.lengths.tolist() == [len(expected)]


@torch.no_grad()
def test_front_end_from_the_raw_waveform(cases: list[Case]) -> None:
    for case in cases:
        model, raw = case.model(case.kept), case.tensors["wav_raw"][None]
        waves, _ = model.features(raw, torch.tensor([raw.shape[1]]))
        close(waves[0], case.tensors["wav_processor_norm"], case.name)
        expected = case.tensors[f"last_hidden_state_{case.kept}layer_processor_norm"]
        close(model(raw).frames[0], expected, case.name)


@torch.no_grad()
def test_padded_batch_with_and_without_mask(cases: list[Case]) -> None:
    for case in cases:
        model, name = case.model(case.kept), f"batch_last_hidden_state_{case.kept}layer"
        waves = case.tensors["batch_input_values"]
        lengths = case.tensors["batch_attention_mask"].sum(1).long()
        out = model.forward_features(waves, lengths)
        close(out.frames, case.tensors[name], case.name, atol=2e-5)
        assert torch.equal(out.lengths, case.tensors["batch_frame_mask"].sum(1))
        close(
            model.forward_features(waves).frames,
            case.tensors[f"{name}_nomask"],
            case.name,
            atol=2e-5,
        )


@torch.no_grad()
def test_exact_padding_never_reaches_a_valid_frame(cases: list[Case]) -> None:
    for case in cases:
        model = case.model(case.kept, "exact")
        waves = case.tensors["batch_input_values"]
        lengths = case.tensors["batch_attention_mask"].sum(1).long()
        batch = model.forward_features(waves, lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = model.forward_features(waves[row : row + 1, :length])
            count = int(alone.lengths)
            assert batch.lengths[row] == count
            close(batch.frames[row, :count], alone.frames[0], case.name)


@torch.no_grad()
def test_hidden_states_of_the_inference_path(cases: list[Case], reference_dir: Path) -> None:
    """``segmenter_e2e``: recordings, and clips padded as the original pads them."""
    folder, case = reference_dir / "sylber", cases[0]
    model = case.model(case.kept)
    paths = sorted(folder.glob("segmenter_e2e*.safetensors"))
    assert paths
    for path in paths:
        tensors = load_file(path)
        for item in json.loads(path.with_suffix(".json").read_text())["items"]:
            name = item["name"]
            waves = [
                tensors[f"{name}/{index}/wav"]
                if f"{name}/{index}/wav" in tensors
                else recording(folder / f"{name}.flac")
                for index in range(item["n_items"])
            ]
            batch = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
            lengths = torch.tensor([len(wave) for wave in waves])
            frames = model.forward_features(batch, lengths).frames
            for index in range(len(waves)):
                close(frames[index], tensors[f"{name}/{index}/hidden_states"], name)


def recording(path: Path) -> Tensor:
    wave = torch.from_numpy(audio.read(path))
    return normalized(wave[None], torch.tensor([len(wave)]), eps=0.0)[0]
