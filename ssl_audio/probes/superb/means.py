"""Layer means of utterances.

Axes: N utterances, L layers, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from ssl_audio import audio
from ssl_audio.probes.embeddings import Extraction
from ssl_audio.probes.recordings import Recording
from ssl_audio.probes.superb.layers import LayerStack
from ssl_audio.probes.superb.task import Settings, Utterance
from ssl_audio.rng import sample_generator


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

    def opened(utterance: Utterance) -> list[Recording]:
        file_sec = audio.info(utterance.path).duration_sec
        kept = _cut(utterance, file_sec, settings.seed)
        duration = kept.duration_sec or file_sec - kept.start_sec
        gain = np.float32(10 ** (gain_db / 20))
        return [Recording(kept.id, duration, partial(_read, kept, gain))]

    def identity(utterance: Utterance) -> tuple[object, ...]:
        stretch = utterance.start_sec, utterance.duration_sec, utterance.max_sec
        crop_seed = None if utterance.max_sec is None else settings.seed
        return (
            utterance.id,
            str(utterance.path),
            _size(utterance.path),
            *stretch,
            crop_seed,
            gain_db,
        )

    title = "layer means" if settings.progress else ""
    extraction = Extraction(layers, settings.batch_sec, settings.cache_dir, title)
    found, failures = extraction.run(utterances, opened, identity, "mean")
    return {name: row.unflatten(0, (-1, layers.dim)) for name, row in found.items()}, failures


def _cut(utterance: Utterance, file_sec: float, seed: int) -> Utterance:
    """The stretch to use, no longer than ``max_sec``; a function of (seed, id)."""
    longest = utterance.max_sec
    if longest is None or file_sec <= longest:
        return utterance
    rng = sample_generator(seed, f"superb_cut_{utterance.id}", 0)
    return replace(
        utterance, start_sec=float(rng.uniform(0, file_sec - longest)), duration_sec=longest
    )


def _read(
    utterance: Utterance, gain: np.float32, start_sec: float, duration_sec: float | None
) -> np.ndarray:
    if duration_sec is None and utterance.duration_sec is not None:
        duration_sec = utterance.duration_sec - start_sec
    return gain * audio.read(utterance.path, utterance.start_sec + start_sec, duration_sec)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
