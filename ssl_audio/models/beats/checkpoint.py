"""Official BEATs checkpoints: names and files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_audio.checkpoints import CheckpointError, read_checkpoint

PATCHES = "patch_embedding.weight"
TABLE = "relative_attention_bias.weight"
TABLE_OF_LAYER = re.compile(rf"(.*?)(?:layers|decoder_blocks)\.\d+\.self_attn\.{re.escape(TABLE)}")
# Official names, of old and new weight normalisation, and ours.
RENAMED = (
    ("pos_conv.0.parametrizations.weight.original0", "pos_conv.weight_g"),
    ("pos_conv.0.parametrizations.weight.original1", "pos_conv.weight_v"),
    ("pos_conv.0.", "pos_conv."),
    ("decoder_blocks.", "layers."),
)
# Constant kernels with which OpenBEATs folds masks.
CONSTANTS = ("patch_embedding_pad.weight", "raw2fbank_pad.weight")


def our_tensors(state_dict: Mapping[str, Tensor], source: object) -> dict[str, Tensor]:
    """Official tensors under our names; the position table, which every layer repeats, once.

    Serves encoders, tokenizers, and the blocks of OpenBEATs' estimators and label predictors.

    Args:
        source: named in errors.

    Raises:
        CheckpointError: the layers' position tables differ.
    """
    tensors: dict[str, Tensor] = {}
    for official, tensor in state_dict.items():
        if official.endswith(CONSTANTS):
            continue
        name = official
        if match := TABLE_OF_LAYER.fullmatch(official):
            name = match[1] + TABLE
            if name in tensors and not torch.equal(tensors[name], tensor):
                raise CheckpointError(
                    f"{source}: {official} differs from the table of the other layers, which BEATs "
                    "shares; use the weights as they were saved"
                )
        for theirs, ours in RENAMED:
            name = name.replace(theirs, ours)
        tensors[name] = tensor
    return tensors


def official_tensors(state_dict: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """An encoder's state dict under the official names, the position table once per layer."""
    tensors = {}
    for name, tensor in state_dict.items():
        if name == f"encoder.{TABLE}":
            for layer in range(num_layers):
                tensors[f"encoder.layers.{layer}.self_attn.{TABLE}"] = tensor
        else:
            tensors[name.replace("pos_conv.", "pos_conv.0.")] = tensor
    return tensors


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Errors about what the file holds become ``CheckpointError`` that names it."""
    try:
        yield
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def read_release(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and config of an official file, ``{"cfg", "model"}`` and perhaps ``"label_dict"``.

    Files of OpenBEATs, whose model has the encoder beside its label predictor, are read too.

    The labels, in the order of the classes, are added to the config as ``labels``.

    Raises:
        CheckpointError: the file is missing, damaged, would run code when read, or is not BEATs'.
    """
    content = read_checkpoint(path)
    tensors = content.get("model") if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(x, Tensor) for name, x in tensors.items()
    ):
        raise CheckpointError(f"{path} holds no state dict under the key 'model'; not a BEATs file")
    if PATCHES not in tensors and f"encoder.{PATCHES}" in tensors:  # OpenBEATs, with its predictor
        parts = {name: x for name, x in tensors.items() if not name.startswith("decoder.")}
        tensors = {name.removeprefix("encoder."): x for name, x in parts.items()}
    if PATCHES not in tensors:
        raise CheckpointError(
            f"{path} is of another architecture: BEATs has {PATCHES}, this file "
            f"{', '.join(sorted(map(str, tensors))[:3]) or 'nothing'}"
        )
    config = content.get("cfg")
    if not isinstance(config, dict):
        raise CheckpointError(
            f"{path} has no cfg, without which the weights mean nothing; save it as "
            "{'cfg': config dict, 'model': state dict}"
        )
    labels = content.get("label_dict")
    if labels is None:
        return tensors, dict(config)
    if not isinstance(labels, dict) or labels.keys() != set(range(len(labels))):
        raise CheckpointError(f"{path}: label_dict must map 0, 1, … to the names of the classes")
    names = [str(labels[index]) for index in range(len(labels))]
    return tensors, {**config, "labels": names}
