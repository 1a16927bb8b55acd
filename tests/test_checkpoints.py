"""Files that nobody has vouched for end in one line."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ssl_audio.checkpoints import (
    CheckpointError,
    load_strict,
    read_checkpoint,
    read_json,
    read_safetensors,
    without_prefix,
)


class Code:
    """Would write a file, were it unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def message(read, path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_tensors_come_back(tmp_path):
    content = {"model": {"weight": torch.arange(3.0)}, "config": {"sizes": [1, 2], "name": "x"}}
    torch.save(content, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt")["config"] == content["config"]
    save_file(content["model"], tmp_path / "a.safetensors")
    assert torch.equal(read_safetensors(tmp_path / "a.safetensors")["weight"], torch.arange(3.0))


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_pickled_code_is_not_run(tmp_path, protocol):
    trap, path = tmp_path / "executed", tmp_path / "evil.ckpt"
    content = {"state_dict": {}, "callbacks": Code(trap)}
    if protocol == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    assert "pickled Python objects" in message(read_checkpoint, path)
    assert not trap.exists()


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.98])
def test_truncated_checkpoints(tmp_path, kept):
    path = tmp_path / "model.pt"
    torch.save({"model": {"weight": torch.randn(100, 100)}}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    assert "copy or download it again" in message(read_checkpoint, path)


@pytest.mark.parametrize("kept", [0, 5, 60, 0.5, 0.99])
def test_truncated_safetensors(tmp_path, kept):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.randn(100, 100)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    assert "copy or download it again" in message(read_safetensors, path)


@pytest.mark.parametrize("read", [read_checkpoint, read_safetensors, read_json])
def test_other_things_than_checkpoints(tmp_path, read):
    assert "does not exist" in message(read, tmp_path / "absent")
    assert "folder" in message(read, tmp_path)
    text = tmp_path / "text"
    text.write_text("Not Found\n")
    message(read, text)
    text.write_bytes(b"\xff\xfe\x00")
    message(read, text)


def test_json_must_be_an_object(tmp_path):
    (tmp_path / "config.json").write_text("[1, 2]")
    assert "holds a list" in message(read_json, tmp_path / "config.json")


def test_strict_loading_names_what_does_not_fit():
    source = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    weights = source.state_dict()
    target = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    load_strict(target, weights, "a.pt")
    assert torch.equal(target[1].weight, source[1].weight)

    wrong = {**weights, "2.weight": torch.ones(1), "0.bias": torch.ones(5)}
    del wrong["1.weight"]
    with pytest.raises(CheckpointError) as caught:
        load_strict(target, wrong, "a.pt")
    text = str(caught.value)
    assert text.startswith("a.pt does not fit Sequential")
    assert "1 missing (1.weight)" in text
    assert "1 unexpected (2.weight)" in text
    assert "1 of another shape (0.bias (5,) instead of (4,))" in text


def test_without_prefix():
    x = torch.zeros(1)
    assert list(without_prefix({"encoder.a": x, "encoder_embed.b": x, "head": x}, "encoder.")) == [
        "a"
    ]
