"""What several stages build from their config sections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ssl_audio import hub
from ssl_audio.checkpoints import load_strict
from ssl_audio.config import SOURCE_SHORTCUTS, construct
from ssl_audio.data.datamodule import DataModule
from ssl_audio.models.encoder import Encoder
from ssl_audio.models.hubert import HubertEncoder
from ssl_audio.models.huggingface_encoder import HuggingFaceEncoder
from ssl_audio.models.sdhubert import SdHubertEncoder

HUBERTS = {cls.kind: cls for cls in (HubertEncoder, SdHubertEncoder)}


def build_data(section: Mapping[str, Any], seed: int) -> DataModule:
    """The data module of the ``data`` section.

    Raises:
        ValueError: the source or its settings cannot be used, in one line.
    """
    settings = {key: value for key, value in section.items() if key not in SOURCE_SHORTCUTS}
    data: DataModule = construct(settings, "data", seed=seed)
    return data


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What is built inside has weights that depend on the seed alone, not on what ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def build_encoder(model: Mapping[str, Any], start: str | None = None) -> Encoder:
    """An encoder of ``kind`` and ``config``.

    Args:
        model: the section; of a HuBERT with a start, ``config`` is what changes.
        start: a ``load_encoder`` source whose weights it begins with; None for fresh ones.

    Raises:
        ValueError: an unknown kind or config, or weights of another architecture.
    """
    if start is not None and model["kind"] in HUBERTS:
        given = _as_hubert(hub.load_encoder(start), start)
        return HUBERTS[model["kind"]].from_encoder(given, **model["config"])
    encoder: Encoder = hub.build(model, "model")
    if start is not None:
        load_strict(encoder, hub.load_encoder(start).state_dict(), start)
    return encoder


def _as_hubert(encoder: Encoder, source: str) -> HubertEncoder:
    """The encoder itself, or ours with the weights of one of transformers."""
    if isinstance(encoder, HubertEncoder):
        return encoder
    if isinstance(encoder, HuggingFaceEncoder) and encoder.model_config["model_type"] == "hubert":
        config = {**encoder.model_config, "normalize": encoder.normalize}
        return HubertEncoder.from_state_dict(encoder.model.state_dict(), config)
    raise ValueError(
        f"{source} is an encoder of kind {encoder.kind!r}; this method starts from a HuBERT: give "
        "an export of experiment=hubert or a HuBERT of transformers, SD-HuBERT or Sylber"
    )
