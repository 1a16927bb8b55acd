"""ssl_audio: self-supervised audio pre-training.

``import ssl_audio`` is light: the names below are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_audio import frontends, hub, models, tokenizers
    from ssl_audio.extraction import extract
    from ssl_audio.hub import load_encoder, load_tokenizer, save

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "extract",
    "frontends",
    "hub",
    "load_encoder",
    "load_tokenizer",
    "models",
    "save",
    "tokenizers",
]

_FUNCTIONS = {
    "extract": "ssl_audio.extraction",
    **dict.fromkeys(("load_encoder", "load_tokenizer", "save"), "ssl_audio.hub"),
}


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(import_module(_FUNCTIONS[name]), name)
    if name in __all__:
        return import_module(f"ssl_audio.{name}")
    raise AttributeError(f"module 'ssl_audio' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
