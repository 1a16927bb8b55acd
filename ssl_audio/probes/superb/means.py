"""Layer means of utterances, in shards that a killed run finds again.

Axes: N utterances, L layers, D channels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ssl_audio import audio
from ssl_audio.files import replacing
from ssl_audio.probes.recordings import Recording
from ssl_audio.probes.stream import EXTRACTOR, Failure, iter_features
from ssl_audio.probes.superb.layers import LayerStack
from ssl_audio.probes.superb.task import Settings, Utterance
from ssl_audio.rng import sample_generator

SHARD = 2000  # utterances


def layer_means(
    layers: LayerStack, utterances: Sequence[Utterance], settings: Settings, gain_db: float = 0.0
) -> tuple[dict[str, Tensor], list[str]]:
    """(L, D) by utterance id, and one line for each utterance left out.

    Args:
        layers: what to take the means of.
        utterances: longer ones than their ``max_sec`` are cut at random, once.
        settings: where to keep the means, seconds in a batch, seed of the cuts.
        gain_db: applied to the audio.
    """
    found: dict[str, Tensor] = {}
    failures: list[str] = []
    for start in range(0, len(utterances), SHARD):
        shard = utterances[start : start + SHARD]
        path = _cache_path(layers, shard, settings, gain_db)
        stored = _read(path)
        if stored is None:
            stored = _computed(layers, shard, settings, gain_db)
            if path is not None:
                with replacing(path) as temporary:
                    save_file(stored[0], temporary, {"failures": json.dumps(stored[1])})
        found |= stored[0]
        failures += stored[1]
    return found, failures


def _computed(
    layers: LayerStack, utterances: Sequence[Utterance], settings: Settings, gain_db: float
) -> tuple[dict[str, Tensor], list[str]]:
    recordings, failures = [], []
    gain = np.float32(10 ** (gain_db / 20))
    for utterance in utterances:
        try:
            header = audio.info(utterance.path)
        except audio.AudioError as error:
            failures.append(str(error))
            continue
        kept = _cut(utterance, header.duration_sec, settings.seed)
        duration = kept.duration_sec or header.duration_sec - kept.start_sec
        recordings.append(Recording(kept.id, duration, partial(_read_audio, kept, gain)))
    found = {}
    for features in iter_features(layers, recordings, batch_sec=settings.batch_sec):
        if isinstance(features, Failure):
            failures.append(features.reason)
        else:
            found[features.id] = layers.join(features.layers)
    return found, failures


def _cut(utterance: Utterance, file_sec: float, seed: int) -> Utterance:
    """The stretch to use, no longer than ``max_sec``; a function of (seed, id)."""
    longest = utterance.max_sec
    if longest is None or file_sec <= longest:
        return utterance
    rng = sample_generator(seed, f"superb_cut_{utterance.id}", 0)
    return replace(
        utterance, start_sec=float(rng.uniform(0, file_sec - longest)), duration_sec=longest
    )


def _read_audio(
    utterance: Utterance, gain: np.float32, start_sec: float, duration_sec: float | None
) -> np.ndarray:
    if duration_sec is None and utterance.duration_sec is not None:
        duration_sec = utterance.duration_sec - start_sec
    return gain * audio.read(utterance.path, utterance.start_sec + start_sec, duration_sec)


def _read(path: Path | None) -> tuple[dict[str, Tensor], list[str]] | None:
    """What an earlier run stored; None if there is nothing, or the file is damaged."""
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            failures = json.loads(file.metadata()["failures"])
            return {name: file.get_tensor(name) for name in file.keys()}, failures  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError):
        return None  # cut off by a full disk, say: made anew


def _cache_path(
    layers: LayerStack, utterances: Sequence[Utterance], settings: Settings, gain_db: float
) -> Path | None:
    if settings.cache_dir is None:
        return None
    files = [
        (u.id, str(u.path), _size(u.path), u.start_sec, u.duration_sec, u.max_sec)
        for u in utterances
    ]
    crop_seed = settings.seed if any(u.max_sec for u in utterances) else None
    parts = ("superb", EXTRACTOR, layers.key, gain_db, crop_seed, "soxr HQ", files)
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
    return settings.cache_dir / f"superb-means-{digest}.safetensors"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def stacked_means(found: dict[str, Tensor], utterances: Sequence[Utterance]) -> Tensor:
    """(N, L, D) of utterances that all have means."""
    return torch.stack([found[utterance.id] for utterance in utterances])
