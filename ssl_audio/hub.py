"""Save and load encoders and tokenizers.

An export is a folder with ``config.json`` (kind, config, content hash, provenance) and
``model.safetensors``; nothing in it is pickled. ``load_encoder`` also reads training checkpoints,
official checkpoints and the models of other libraries; a new format is one row in a table below.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ssl_audio.checkpoints import (
    CheckpointError,
    load_strict,
    read_checkpoint,
    read_json,
    read_safetensors,
    without_prefix,
)
from ssl_audio.files import replacing

if TYPE_CHECKING:
    from ssl_audio.models.encoder import Encoder
    from ssl_audio.tokenizers.tokenizer import Tokenizer

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT_VERSION = 1

# kind -> where its class lives. Classes are imported when asked for: some need optional packages.
ENCODERS = {
    "zipformer": "ssl_audio.models.zipformer:Zipformer",
    "beats": "ssl_audio.models.beats:BeatsEncoder",
    "mfcc": "ssl_audio.models.spectral:MfccEncoder",
    "log_spectrum": "ssl_audio.models.spectral:LogSpectrumEncoder",
    "hubert": "ssl_audio.models.hubert:HubertEncoder",
    "sdhubert": "ssl_audio.models.sdhubert:SdHubertEncoder",
    "torchaudio": "ssl_audio.models.torchaudio_encoder:TorchaudioEncoder",
    "huggingface": "ssl_audio.models.huggingface_encoder:HuggingFaceEncoder",
    "dasheng": "ssl_audio.models.dasheng_encoder:DashengEncoder",
}
TOKENIZERS = {
    "mvq": "ssl_audio.tokenizers.teacher_tokens:MVQTokenizer",
    "random_projection": "ssl_audio.tokenizers.random_projection:RandomProjectionTokenizer",
    "beats_tokenizer": "ssl_audio.tokenizers.distilled:DistilledTokenizer",
    "kmeans": "ssl_audio.tokenizers.kmeans:KMeansTokenizer",
    "syllables": "ssl_audio.tokenizers.syllable_tokenizer:SyllableTokenizer",
    "min_cut": "ssl_audio.tokenizers.min_cut_labels:MinCutTokenizer",
    "energy_valleys": "ssl_audio.tokenizers.energy_valleys:EnergyValleyTokenizer",
}

SCHEMES = ("torchaudio", "hf", "dasheng")

# "model_type" in the config.json of a Hugging Face folder -> kind and classmethod
HUGGINGFACE_TYPES = {
    "spear": ("zipformer", "from_checkpoint"),
    "hubert": ("huggingface", "from_pretrained"),
    "wavlm": ("huggingface", "from_pretrained"),
    "wav2vec2": ("huggingface", "from_pretrained"),
}


def save(
    module: Encoder | Tokenizer,
    directory: str | Path,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``config.json`` and ``model.safetensors``.

    Each file appears whole or not at all, and the pair is checked on loading, so a crash in
    between is noticed.

    Args:
        module: an encoder or tokenizer with ``kind`` and ``config``.
        directory: created if need be; an export already there is replaced.
        provenance: JSON-able facts on where the weights came from.

    Returns:
        The directory.

    Raises:
        CheckpointError: the disk is full or the directory cannot be written.
    """
    from ssl_audio import __version__

    directory = Path(directory)
    tensors = {name: _detached(x) for name, x in module.state_dict().items()}
    digest = _digest(spec(module), tensors)
    description = {
        "format_version": FORMAT_VERSION,
        "ssl_audio_version": __version__,
        **spec(module),
        "content_hash": digest,
        "provenance": dict(provenance or {}),
    }
    text = json.dumps(description, indent=2, allow_nan=False) + "\n"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with replacing(directory / WEIGHTS_FILE) as path:
            save_file(tensors, path, {"format": "pt"})
        with replacing(directory / CONFIG_FILE) as path:
            path.write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{directory} cannot be written ({error}); free some space or choose another folder"
        ) from error
    return directory


def load_encoder(source: str | Path) -> Encoder:
    """An encoder in eval mode, gradients off.

    Args:
        source: an export directory; a Lightning training checkpoint (``.ckpt``); a SPEAR folder in
            the Hugging Face layout or a SPEAR ``.pt``; a BEATs, WavLM, Dasheng, Sylber or SD-HuBERT
            checkpoint file of their authors; a transformers folder, or a HuBERT's weight file;
            ``torchaudio:WAVLM_LARGE``; ``hf:ORG/NAME``; ``dasheng:dasheng_base``.

    Raises:
        CheckpointError: the source is missing, truncated, unknown, not an encoder, or its tensors
            do not fit.
    """
    scheme, _, rest = str(source).partition(":")
    path = Path(source).expanduser()
    if scheme in SCHEMES and rest:
        encoder = _load_scheme(scheme, rest)
    elif path.is_dir():
        encoder = _load_directory(path, ENCODERS)
    elif path.name in (WEIGHTS_FILE, CONFIG_FILE) and path.is_file():
        encoder = _load_directory(path.parent, ENCODERS)
    elif path.is_file():
        encoder = _load_file(path)
    else:
        raise CheckpointError(
            f"{source} does not exist; give an export folder, a checkpoint file, or "
            + ", ".join(f"{name}:NAME" for name in SCHEMES)
        )
    return _frozen(encoder)


def load_tokenizer(source: str | Path) -> Tokenizer:
    """A tokenizer in eval mode, gradients off.

    Args:
        source: an export directory, or an official BEATs tokenizer file.

    Raises:
        CheckpointError: as ``load_encoder``.
    """
    path = Path(source).expanduser()
    if path.name in (WEIGHTS_FILE, CONFIG_FILE) and path.is_file():
        path = path.parent
    if path.is_file():
        return _frozen(_find("beats_tokenizer", TOKENIZERS, path).from_checkpoint(path))
    if not path.is_dir():
        raise CheckpointError(
            f"{source} does not exist; give a tokenizer's export folder (ssl_audio.save writes "
            "one) or a BEATs tokenizer file"
        )
    return _frozen(_load_directory(path, TOKENIZERS))


def is_tokenizer(source: str | Path) -> bool:
    """Whether ``source`` is an export that ``load_tokenizer`` reads, judged by its config alone."""
    path = Path(source).expanduser()
    path = path.parent if path.name in (WEIGHTS_FILE, CONFIG_FILE) else path
    config = path / CONFIG_FILE
    return config.is_file() and read_json(config).get("kind") in TOKENIZERS


def spec(module: Encoder | Tokenizer) -> dict[str, Any]:
    """``{"kind", "config"}`` of a module, JSON-able; ``build`` is the inverse."""
    return {"kind": module.kind, "config": module.config}


def build(description: Mapping[str, Any], source: object = "the config") -> Any:
    """A module with fresh weights from ``{"kind", "config"}``; the global RNG is left alone.

    Args:
        source: named in errors.

    Raises:
        CheckpointError: the kind is unknown or its config does not fit.
    """
    cls = _find(description.get("kind"), ENCODERS | TOKENIZERS, source)
    with torch.random.fork_rng(devices=[]):
        try:
            return cls.from_config(dict(description["config"]))
        except (TypeError, KeyError) as error:
            raise CheckpointError(f"{source}: wrong config for {cls.__name__}: {error}") from error


def content_hash(source: nn.Module | str | Path) -> str:
    """SHA-256 over kind, config and every tensor, of a module or of an export directory.

    It does not depend on where or when the export was written, nor on its provenance.
    """
    if isinstance(source, nn.Module):
        return _digest(spec(source), dict(source.state_dict()))  # type: ignore[arg-type]
    description = read_json(Path(source) / CONFIG_FILE)
    tensors = read_safetensors(Path(source) / WEIGHTS_FILE)
    return _digest(_identity(description), tensors)


def _identity(description: Mapping[str, Any]) -> dict[str, Any]:
    return {key: description.get(key) for key in ("kind", "config")}


def _digest(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        x = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {x.dtype} {tuple(x.shape)}\n".encode())
        digest.update(x.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _load_scheme(scheme: str, name: str) -> Any:
    if scheme == "torchaudio":
        return _find("torchaudio", ENCODERS, name).from_bundle(name)
    if scheme == "dasheng":
        return _find("dasheng", ENCODERS, name).from_pretrained(name)
    if Path(name).expanduser().is_dir():
        return _load_directory(Path(name).expanduser(), ENCODERS)
    if folder := _downloaded(name):
        return _load_directory(folder, ENCODERS)
    return _find("huggingface", ENCODERS, name).from_pretrained(name)


def _downloaded(name: str) -> Path | None:
    """The hub's copy of a SPEAR release or of an export of ours; None for other models."""
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
    except ImportError as error:
        raise CheckpointError(f"hf:{name} needs pip install 'ssl-audio[hf]'") from error
    try:
        description = read_json(hf_hub_download(name, CONFIG_FILE))
        if "kind" not in description and description.get("model_type") != "spear":
            return None
        return Path(snapshot_download(name, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE]))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"hf:{name} cannot be downloaded: {reason}") from error


def _load_directory(directory: Path, kinds: Mapping[str, str]) -> Any:
    description = read_json(directory / CONFIG_FILE)
    if "kind" in description:
        return _load_export(directory, description, kinds)
    model_type = description.get("model_type")
    if kinds is ENCODERS and model_type in HUGGINGFACE_TYPES:
        kind, loader = HUGGINGFACE_TYPES[model_type]
        return getattr(_find(kind, kinds, directory), loader)(directory)
    raise CheckpointError(
        f"{directory / CONFIG_FILE} has neither a kind nor a known model_type; "
        f"known types: {', '.join(HUGGINGFACE_TYPES)}"
    )


def _load_export(directory: Path, description: Mapping[str, Any], kinds: Mapping[str, str]) -> Any:
    _find(description["kind"], kinds, directory)  # an error before the weights are read
    if description.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{directory} has format {description.get('format_version')}, this version reads "
            f"{FORMAT_VERSION}; use the ssl_audio that wrote it"
        )
    tensors = read_safetensors(directory / WEIGHTS_FILE)
    module = build(description, directory)
    load_strict(module, tensors, directory)
    if description.get("content_hash") != _digest(_identity(description), tensors):
        raise CheckpointError(
            f"{directory}: {WEIGHTS_FILE} does not belong to {CONFIG_FILE}, one of them was "
            "replaced or edited; export again"
        )
    return module


def _load_file(path: Path) -> Any:
    """A single file: whose it is shows in its keys."""
    from ssl_audio.models.hubert.checkpoint import aggregator, encoder_prefix

    is_safetensors = path.suffix == ".safetensors"
    content = read_safetensors(path) if is_safetensors else read_checkpoint(path)
    keys = set(content) if isinstance(content, dict) else set()
    if encoder_prefix(content) is not None:
        kind = "hubert" if aggregator(content) is None else "sdhubert"
        return _find(kind, ENCODERS, path).from_checkpoint(path)
    if {"state_dict", "hyper_parameters"} <= keys:
        return _load_training_checkpoint(path, content)
    model = content["model"] if "model" in keys else None
    if isinstance(model, Mapping) and any(
        prefix + "patch_embedding.weight" in model for prefix in ("", "encoder.")
    ):
        return _find("beats", ENCODERS, path).from_checkpoint(path)
    if {"model", "config"} <= keys:
        return _find("dasheng", ENCODERS, path).from_checkpoint(path)
    if {"model", "cfg"} <= keys:
        cfg = content["cfg"]
        kind = "torchaudio" if isinstance(cfg, dict) and "conv_feature_layers" in cfg else "beats"
        return _find(kind, ENCODERS, path).from_checkpoint(path)
    if "model" in keys:
        return _find("zipformer", ENCODERS, path).from_checkpoint(path)
    raise CheckpointError(
        f"{path} is in no known layout (keys: {', '.join(sorted(map(str, keys))[:5]) or 'none'}); "
        "known are training checkpoints and the files of SPEAR, BEATs, WavLM, Dasheng, Sylber, "
        "SD-HuBERT and HuBERT"
    )


def _load_training_checkpoint(path: Path, content: Mapping[str, Any]) -> Any:
    description = content["hyper_parameters"].get("encoder")
    if not isinstance(description, Mapping):
        raise CheckpointError(f"{path} is a training checkpoint without an encoder in it")
    encoder = build(description, path)
    # torch.compile keeps the module it wraps under _orig_mod
    average = content.get("encoder_average", {}).get("weights")  # what the run would export
    weights = average or without_prefix(content["state_dict"], "encoder.")
    weights = {name.replace("_orig_mod.", ""): x for name, x in weights.items()}
    load_strict(encoder, weights, path)
    return encoder


def _find(kind: Any, kinds: Mapping[str, str], source: object) -> Any:
    """The class of ``kind``; an error names what ``source`` is instead."""
    if not isinstance(kind, str) or kind not in kinds:
        if kind in tuple(ENCODERS):
            raise CheckpointError(f"{source} is an encoder; use load_encoder")
        if kind in tuple(TOKENIZERS):
            raise CheckpointError(f"{source} is a tokenizer; use load_tokenizer")
        raise CheckpointError(f"{source}: unknown kind {kind!r}; known: {', '.join(kinds)}")
    module, _, name = kinds[kind].partition(":")
    return getattr(import_module(module), name)


def _frozen(module: Any) -> Any:
    return module.eval().requires_grad_(False)


def _detached(x: Tensor) -> Tensor:
    """A CPU copy that shares no storage, as safetensors asks."""
    return x.detach().to("cpu", copy=True).contiguous()
