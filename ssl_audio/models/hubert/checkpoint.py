"""Files that hold a HuBERT: Sylber's, SD-HuBERT's and those of transformers.

Sources: github.com/Berkeley-Speech-Group/sylber, github.com/cheoljun95/sdhubert.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_audio.checkpoints import (
    CheckpointError,
    read_checkpoint,
    read_json,
    read_safetensors,
    without_prefix,
)

# Where the encoder lies in a file; the first that is there is taken.
PREFIXES = ("net.speech_model.", "speech_model.", "net.", "hubert.", "module.", "")
CONTAINERS = ("state_dict", "ema")
FIRST_CONV = "feature_extractor.conv_layers.0.conv.weight"
PARTS = ("masked_spec_embed", "feature_extractor.", "feature_projection.", "encoder.")
POSITIONS = "encoder.pos_conv_embed.conv."
# older name of a weight norm's tensor -> its name today
WEIGHT_NORM = {
    f"{POSITIONS}weight_g": f"{POSITIONS}parametrizations.weight.original0",
    f"{POSITIONS}weight_v": f"{POSITIONS}parametrizations.weight.original1",
}
LAYER = re.compile(r"encoder\.layers\.(\d+)\.")
HEAD_DIM = 64  # of every released HuBERT; the tensors do not tell


def read_file(path: str | Path) -> Any:
    """The content of a ``torch.save`` or safetensors file, never unpickling objects."""
    if Path(path).suffix == ".safetensors":
        return read_safetensors(path)
    return read_checkpoint(path)


def encoder_prefix(content: Any) -> str | None:
    """Where a file's content has a HuBERT, as a key of ``PREFIXES``; None if it has none."""
    tensors = _tensors(content)
    return next((prefix for prefix in PREFIXES if prefix + FIRST_CONV in tensors), None)


def encoder_tensors(content: Any, source: object) -> dict[str, Tensor]:
    """The HuBERT in a file's content, under today's names without prefix.

    In a file that holds only an encoder every tensor has to be the encoder's; a training file has
    heads beside it, which are left out.

    Raises:
        CheckpointError: there is no HuBERT in it.
    """
    prefix = encoder_prefix(content)
    if prefix is None:
        names = ", ".join(sorted(map(str, _tensors(content)))[:3]) or "none"
        raise CheckpointError(
            f"{source} holds no HuBERT (tensors: {names}); known are the files of Sylber, "
            "SD-HuBERT and transformers"
        )
    tensors = current_names(without_prefix(_tensors(content), prefix))
    if prefix:
        tensors = {name: x for name, x in tensors.items() if name.startswith(PARTS)}
    return tensors


def aggregator(content: Any) -> Tensor | None:
    """SD-HuBERT's aggregator in a file's content, beside the encoder."""
    tensors = _tensors(content)
    found = [x for name, x in tensors.items() if name.rpartition(".")[2] == "cls_token"]
    return found[0] if found else None


def current_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with today's names of the weight norm."""
    return {WEIGHT_NORM.get(name, name): x for name, x in state_dict.items()}


def first_layers(state_dict: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """Without the tensors of layers ``num_layers`` and up."""
    return {
        name: x
        for name, x in state_dict.items()
        if (layer := LAYER.match(name)) is None or int(layer[1]) < num_layers
    }


def config_from_tensors(state_dict: Mapping[str, Tensor], source: object) -> dict[str, Any]:
    """The official config that the shapes tell, strides and 64-channel heads being the usual ones.

    Raises:
        CheckpointError: tensors that every HuBERT has are missing, or the width is no multiple
            of 64.
    """
    kernels = {
        int(match[1]): x
        for name, x in state_dict.items()
        if (match := re.fullmatch(r"feature_extractor\.conv_layers\.(\d+)\.conv\.weight", name))
    }
    convs = [kernels[index] for index in sorted(kernels)]
    layers = {int(match[1]) for name in state_dict if (match := LAYER.match(name))}
    try:
        hidden = len(state_dict["encoder.layer_norm.weight"])
        direction = state_dict[f"{POSITIONS}parametrizations.weight.original1"]
        inner = len(state_dict["encoder.layers.0.feed_forward.intermediate_dense.bias"])
    except KeyError as error:
        raise CheckpointError(f"{source} lacks {error} of a HuBERT; download it again") from error
    if hidden % HEAD_DIM:
        raise CheckpointError(
            f"{source}: how many heads share {hidden} channels is not in the tensors; put the "
            "model's config.json beside the file"
        )
    return {
        "hidden_size": hidden,
        "num_hidden_layers": len(layers),
        "num_attention_heads": hidden // HEAD_DIM,
        "intermediate_size": inner,
        "conv_dim": [x.shape[0] for x in convs],
        "conv_kernel": [x.shape[2] for x in convs],
        "num_conv_pos_embeddings": direction.shape[2],
        "num_conv_pos_embedding_groups": hidden // direction.shape[1],
    }


def stored_config(path: Path) -> dict[str, Any] | None:
    """``config.json`` beside the file if it describes a HuBERT."""
    beside = path.with_name("config.json")
    config = read_json(beside) if beside.is_file() else {}
    return config if config.get("model_type") == "hubert" else None


def _tensors(content: Any) -> dict[str, Tensor]:
    """The state dict in a file's content, whatever container holds it."""
    if not isinstance(content, Mapping):
        return {}
    for key in CONTAINERS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
    return {name: x for name, x in content.items() if isinstance(x, torch.Tensor)}
