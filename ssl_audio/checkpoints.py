"""Reading weight files that nobody has vouched for, and loading them strictly.

Nothing here unpickles objects: ``torch.load`` runs with ``weights_only=True``, the rest is
safetensors. Whatever is wrong with a file ends in one line that names the file and the mend.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn


class CheckpointError(ValueError):
    """A weight file or export that cannot be used; the message is one line."""


def read_checkpoint(path: str | Path) -> Any:
    """What ``torch.save`` wrote to ``path``, on the CPU: tensors, numbers, strings, containers.

    Raises:
        CheckpointError: the file is missing, truncated, not a checkpoint, or holds pickled objects.
    """
    path = existing(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "global" in str(error):
            raise CheckpointError(
                f"{path} holds pickled Python objects besides tensors and is not read, since that "
                "could run code; save its state dict alone, or convert it to safetensors"
            ) from error
        raise CheckpointError(f"{path} is not a torch checkpoint; {_REPLACE}") from error
    except PermissionError as error:
        raise CheckpointError(f"{path} cannot be read; change its permissions") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or not a checkpoint; {_REPLACE}") from error


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: the file is missing, truncated or not safetensors.
    """
    path = existing(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or not safetensors; {_REPLACE}") from error


def read_json(path: str | Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: the file is missing or holds something else.
    """
    path = existing(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}); {_REPLACE}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a JSON object")
    return content


@contextmanager
def downloading(name: str, file_name: str) -> Iterator[None]:
    """Turns errors of ``torch.hub.load_state_dict_from_url`` inside into CheckpointError.

    Args:
        name: what the user asked for.
        file_name: of the file in torch.hub's cache.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file_name
    try:
        yield
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0]
        if cached.exists():
            raise CheckpointError(f"{cached} is broken ({reason}); delete it") from error
        raise CheckpointError(
            f"{name} cannot be downloaded ({reason}); put the file at {cached}"
        ) from error


def existing(path: str | Path) -> Path:
    """``path`` if it is a file, else CheckpointError."""
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name the file in it")
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; check the path")
    return path


def without_prefix(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Entries whose name starts with ``prefix``, without it."""
    return {name[len(prefix) :]: x for name, x in state_dict.items() if name.startswith(prefix)}


def load_strict(module: nn.Module, state_dict: Mapping[str, Tensor], source: object) -> None:
    """Load every tensor of ``module`` from ``state_dict``, which holds nothing else.

    Args:
        source: named in the error.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape.
    """
    expected = module.state_dict()
    missing = sorted(expected.keys() - state_dict.keys())
    unexpected = sorted(state_dict.keys() - expected.keys())
    reshaped = [
        f"{name} {tuple(state_dict[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & state_dict.keys())
        if state_dict[name].shape != expected[name].shape
    ]
    found = ((missing, "missing"), (unexpected, "unexpected"), (reshaped, "of another shape"))
    problems = [f"{len(names)} {what} ({_few(names)})" for names, what in found if names]
    if problems:
        raise CheckpointError(
            f"{source} does not fit {type(module).__name__}: tensors {', '.join(problems)}; "
            "use the config that the weights were trained with"
        )
    try:
        module.load_state_dict(dict(state_dict), strict=True)
    except RuntimeError as error:  # of a sparse or quantised tensor
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{source} does not fit {type(module).__name__}: {reason}") from error


def _few(names: Iterable[str], limit: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")


_REPLACE = "copy or download it again"
