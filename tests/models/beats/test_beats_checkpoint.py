"""Files and configs that cannot be used end in one line; nothing in them is executed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ssl_audio
from ssl_audio.checkpoints import CheckpointError
from ssl_audio.models import BeatsEncoder

Content = dict[str, Any]


@pytest.fixture
def content(tiny: Callable[..., BeatsEncoder]) -> Content:
    """An official file's content."""
    model = tiny(finetuned_model=True, predictor_class=2)
    ours = ("fbank_mean", "fbank_std", "padding", "labels")
    cfg = {name: value for name, value in model.config.items() if name not in ours}
    labels = {0: "/m/dog", 1: "/m/cat"}
    return {"cfg": cfg, "model": model.official_state_dict(), "label_dict": labels}


@pytest.fixture
def error_of(tmp_path: Path) -> Callable[[Content], str]:
    """The line that loading says, the same through the class and through the hub."""

    def load(content: Content) -> str:
        torch.save(content, tmp_path / "file.pt")
        return errors(tmp_path / "file.pt")

    return load


def errors(path: Path) -> str:
    found = []
    for read in (BeatsEncoder.from_checkpoint, ssl_audio.load_encoder):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        found.append(str(caught.value))
    assert found[0] == found[1]
    assert "\n" not in found[0]
    assert str(path) in found[0]
    return found[0]


def test_an_official_file(content: Content, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "tuned.pt")
    encoder = ssl_audio.load_encoder(tmp_path / "tuned.pt")
    assert isinstance(encoder, BeatsEncoder)
    assert encoder.settings.labels == ("/m/dog", "/m/cat")
    assert encoder.probabilities(torch.randn(2, 8_000)).shape == (2, 2)


def test_an_encoder_beside_a_label_predictor(content: Content, tmp_path: Path) -> None:
    """As OpenBEATs saves it."""
    nested = {f"encoder.{name}": x for name, x in content["model"].items()}
    nested["decoder.mask_token"] = torch.ones(1, 1, 4)
    cfg = {**content["cfg"], "decoder_layers": 3, "mask_ratio": 0.75}
    torch.save({"cfg": cfg, "model": nested}, tmp_path / "open.pt")
    found = ssl_audio.load_encoder(tmp_path / "open.pt").official_state_dict()
    assert found.keys() == content["model"].keys()
    assert all(torch.equal(found[name], x) for name, x in content["model"].items())


def test_absent_keys_have_the_official_defaults(content: Content) -> None:
    del content["cfg"]["deep_norm"]
    encoder = BeatsEncoder.from_state_dict(content["model"], content["cfg"])
    assert not encoder.settings.deep_norm
    del content["cfg"]["input_patch_size"]
    with pytest.raises(ValueError, match="input_patch_size=-1: must be 1 to 128"):
        BeatsEncoder.from_state_dict(content["model"], content["cfg"])


def test_new_names_of_the_normalised_weight_and_constants_of_openbeats(content: Content) -> None:
    expected = BeatsEncoder.from_state_dict(content["model"], content["cfg"]).state_dict()
    tensors = dict(content["model"])
    for old, new in (("g", "original0"), ("v", "original1")):
        tensor = tensors.pop(f"encoder.pos_conv.0.weight_{old}")
        tensors[f"encoder.pos_conv.0.parametrizations.weight.{new}"] = tensor
    tensors["patch_embedding_pad.weight"] = torch.ones(1, 1, 16, 16)
    tensors["raw2fbank_pad.weight"] = torch.ones(1, 1, 400)
    found = BeatsEncoder.from_state_dict(tensors, content["cfg"]).state_dict()
    assert all(torch.equal(found[name], x) for name, x in expected.items())


def test_wrong_content(content: Content, error_of: Callable[[Content], str]) -> None:
    cfg, tensors = content["cfg"], content["model"]
    without = {name: x for name, x in content.items() if name != "cfg"}
    assert "has no cfg" in error_of(without)
    assert "has no cfg" in error_of({**content, "cfg": [1, 2]})
    text = error_of({**content, "cfg": {**cfg, "num_layers": 3}})
    assert "unknown BEATs config keys ['num_layers']; known: [" in text
    for wrong in ("two", 2.0, None, True):
        text = error_of({**content, "cfg": {**cfg, "encoder_layers": wrong}})
        assert f"encoder_layers={wrong!r}: must be of type int" in text
    assert "deep_norm='no'" in error_of({**content, "cfg": {**cfg, "deep_norm": "no"}})
    assert "[1, 'a']" in error_of({**content, "cfg": {**cfg, 1: 2, "a": 3}})
    text = error_of({**content, "cfg": {**cfg, "quant_n": 4}})
    assert "use load_tokenizer" in text
    text = error_of({**content, "model": {**tensors, "decoder.weight": torch.ones(2)}})
    assert "1 unexpected (decoder.weight)" in text
    fewer = {name: x for name, x in tensors.items() if name != "layer_norm.bias"}
    assert "1 missing (layer_norm.bias)" in error_of({**content, "model": fewer})
    text = error_of({**content, "cfg": {**cfg, "encoder_ffn_embed_dim": 32}})
    assert "of another shape" in text
    assert "does not fit" in error_of(
        {**content, "model": {**tensors, "layer_norm.bias": tensors["layer_norm.bias"].to_sparse()}}
    )
    for labels in ({1: "a", 2: "b"}, {0: "a", "b": "c"}, ["a", "b"]):
        assert "label_dict must map" in error_of({**content, "label_dict": labels})
    assert "must be 2 names" in error_of({**content, "label_dict": {0: "a"}})
    table = "encoder.layers.1.self_attn.relative_attention_bias.weight"
    text = error_of({**content, "model": {**tensors, table: tensors[table] + 1}})
    assert "differs from the table of the other layers" in text


def test_another_architecture(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    one = torch.ones(1)
    for model, message in (
        (
            {"encoder.weight": one},
            "of another architecture: BEATs has patch_embedding.weight, this",
        ),
        ({0: one, "patch_embedding.weight": one}, "not a BEATs file"),
        ([one], "not a BEATs file"),
    ):
        torch.save({"model": model, "cfg": {}}, path)
        assert message in errors(path)
    for other in ({"state": 1}, [1]):
        torch.save(other, path)
        with pytest.raises(CheckpointError, match="not a BEATs file"):
            BeatsEncoder.from_checkpoint(path)
        with pytest.raises(CheckpointError, match="in no known layout"):
            ssl_audio.load_encoder(path)


def test_code_in_a_pickle_is_not_run(content: Content, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    torch.save({**content, "label_dict": Attack()}, tmp_path / "attack.pt")
    assert "could run code" in errors(tmp_path / "attack.pt")
    assert not (tmp_path / "executed").exists()


def test_a_truncated_file(content: Content, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    torch.save(content, path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert "truncated" in errors(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_attention_heads": 5}, "5 heads must divide"),
        ({"conv_pos_groups": 3}, "conv_pos_groups=3: must be a divisor"),
        ({"layer_norm_first": True}, "deep_norm is for post-norm"),
        ({"activation_fn": "glu"}, "does not go with activation glu"),
        ({"activation_fn": "swish"}, "activation 'swish' must be one of"),
        ({"padding": "official"}, "padding='official': must be one of"),
        ({"max_distance": 4}, "max_distance=4 must exceed"),
        ({"encoder_layerdrop": 1.0}, "layerdrop=1.0 must lie"),
        ({"encoder_layers": 0}, "must be positive"),
        ({"fbank_std": 0.0}, "fbank_std=0.0: must be positive"),
        ({"fbank_std": float("nan")}, "fbank_std=nan: must be positive"),
        ({"dropout": 1}, "must lie in"),
        ({"dropout_input": -0.1}, "dropout_input=-0.1: must be in"),
        ({"labels": "ab"}, "labels='ab': must be a list of names"),
    ],
)
def test_configs_that_cannot_be(
    tiny: Callable[..., BeatsEncoder], changes: Content, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**changes)
