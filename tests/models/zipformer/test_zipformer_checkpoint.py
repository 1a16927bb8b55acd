"""Official names and files at the border."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ssl_audio.models import Zipformer

Build = Callable[..., Zipformer]


@torch.no_grad()
def same(first: Zipformer, second: Zipformer) -> None:
    features = torch.randn(1, 50, first.config["num_mel_bins"])
    expected = first.eval().forward_features(features).frames
    assert torch.equal(second.eval().forward_features(features).frames, expected)


def test_released_folder(tiny: Build, tmp_path: Path) -> None:
    model = tiny()
    tensors = {f"model.model.{name}": x for name, x in model.state_dict().items()}
    save_file(tensors | {"model.model.mask_emb": torch.zeros(20)}, tmp_path / "model.safetensors")
    config = {"architectures": ["SpearModel"], "model_type": "spear", **model.config}
    (tmp_path / "config.json").write_text(json.dumps(config))
    same(model, Zipformer.from_checkpoint(tmp_path))


def test_training_file_needs_no_config(tmp_path: Path) -> None:
    model = Zipformer(
        num_mel_bins=24,
        downsampling_factor=(1, 2),
        num_encoder_layers=(2, 1),
        encoder_dim=(16, 24),
        encoder_unmasked_dim=(8, 12),
        feedforward_dim=(32, 40),
        cnn_module_kernel=(7, 5),
        num_heads=(2, 4),
    )
    heads = {"codebook_loss_heads.0.linear2_bias": torch.zeros(2, 4), "mask_emb": torch.zeros(24)}
    torch.save({"model": model.state_dict() | heads}, tmp_path / "epoch-1.pt")
    loaded = Zipformer.from_checkpoint(tmp_path / "epoch-1.pt")
    assert loaded.config == model.config
    same(model, loaded)


def test_state_dict_is_strict(tiny: Build) -> None:
    model = tiny()
    tensors: dict[str, Tensor] = dict(model.state_dict())
    norm = "encoder.encoders.0.layers.0.norm.bias"
    extra = {"encoder.other": torch.zeros(1)}
    broken = [
        ("missing", {name: x for name, x in tensors.items() if name != norm}),
        ("unexpected", tensors | extra),
        ("of another shape", tensors | {norm: torch.zeros(3)}),
    ]
    for problem, state in broken:
        with pytest.raises(ValueError, match=f"1 {problem}"):
            Zipformer.from_state_dict(state, model.config)


class Payload:
    """Pickles to a call."""

    def __reduce__(self) -> tuple:
        return (print, ("unpickled",))


def test_unusable_files_end_in_one_line(
    tiny: Build, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.save({"model": Payload()}, tmp_path / "code.pt")
    torch.save({"model": tiny().state_dict()}, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:5000])
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "other.pt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text("{}")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{}")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"12345678901234567890")
    for name, message in [
        ("code.pt", "pickled Python objects"),
        ("cut.pt", "truncated or not a checkpoint"),
        ("other.pt", "not a Zipformer checkpoint"),
        ("absent.pt", "does not exist"),
        ("folder", "model.safetensors does not exist"),
        ("damaged", "truncated or not safetensors"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            Zipformer.from_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert "unpickled" not in capsys.readouterr().out
