"""Official Zipformer checkpoints: names, files and what can be told from the tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ssl_audio.checkpoints import CheckpointError, read_checkpoint, read_json, read_safetensors

PREFIXES = ("model.", "module.")
# Parts of SPEAR's training checkpoints that are not the encoder.
OTHER_PARTS = ("mask_emb", "codebook_loss_net.", "codebook_loss_heads.", "audio_tagging_proj.")


def encoder_tensors(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without leading ``model.`` / ``module.`` and without the pre-training heads."""
    tensors = {}
    for name, tensor in state_dict.items():
        while name.startswith(PREFIXES):
            name = name.split(".", 1)[1]
        if not name.startswith(OTHER_PARTS):
            tensors[name] = tensor
    return tensors


def infer_config(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with the number of mel bins and the embedding's channels, if it lacks them.

    Four neighbouring numbers of mel bins share the same shapes; the multiple of four is taken.
    """
    result = dict(config)
    out = tensors.get("encoder_embed.out.weight")
    if out is None:
        return {**result, "num_mel_bins": 0}
    convs = [tensors.get(f"encoder_embed.conv.{i}.weight") for i in (0, 4, 7)]
    channels = [conv.shape[0] for conv in convs if conv is not None]
    if len(channels) == len(convs):
        result.setdefault("embed_channels", channels)
        result.setdefault("num_mel_bins", 4 * (out.shape[1] // channels[-1] + 1))
    return result


def read_release(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and config of a released folder, or of a training ``.pt`` file with key "model".

    Raises:
        CheckpointError: the file is missing, damaged, or would run code when read.
    """
    if path.is_dir():
        return read_safetensors(path / "model.safetensors"), read_json(path / "config.json")
    content = read_checkpoint(path)
    tensors = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(x, Tensor) for x in tensors.values()):
        raise CheckpointError(f"{path} holds no state dict under the key 'model'")
    return tensors, config_from_tensors(encoder_tensors(tensors))


def config_from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The official config of a state dict whose heads have SPEAR's dims (32, 4, 12).

    Everything but ``encoder_unmasked_dim`` (training only; half the width here) is in the shapes.

    Raises:
        ValueError: these are not a Zipformer's tensors.
    """
    pattern = re.compile(r"encoder\.encoders\.(\d+)\.(encoder\.)?layers\.(\d+)\.norm\.bias")
    found = [match for name in tensors if (match := pattern.fullmatch(name))]
    if not found:
        raise ValueError("no encoder.encoders.*.layers.* tensors: not a Zipformer checkpoint")
    stacks = sorted({(int(match[1]), match[2] or "") for match in found})
    config: dict[str, list[int]] = {key: [] for key in _STACK_KEYS}
    for index, inner in stacks:
        stack = f"encoder.encoders.{index}."
        layer = f"{stack}{inner}layers.0."
        dim = tensors[layer + "norm.bias"].shape[0]
        factor = tensors[stack + "downsample.bias"].shape[0] if inner else 1
        config["downsampling_factor"].append(factor)
        config["num_encoder_layers"].append(sum(int(match[1]) == index for match in found))
        config["encoder_dim"].append(dim)
        config["encoder_unmasked_dim"].append(dim // 2)
        config["feedforward_dim"].append(tensors[layer + "feed_forward2.in_proj.bias"].shape[0])
        config["num_heads"].append(tensors[layer + "self_attn1.in_proj.bias"].shape[0] // 12)
        kernel = tensors[layer + "conv_module1.depthwise_conv.weight"].shape[-1]
        config["cnn_module_kernel"].append(kernel)
    out_factor = 2 if "encoder.downsample_output.bias" in tensors else 1
    return {**config, "output_downsampling_factor": out_factor}


_STACK_KEYS = (
    "downsampling_factor",
    "num_encoder_layers",
    "encoder_dim",
    "encoder_unmasked_dim",
    "feedforward_dim",
    "num_heads",
    "cnn_module_kernel",
)
