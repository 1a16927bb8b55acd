"""ABX by zerospeech-libriabx2, the program of the ZeroSpeech challenges, where it is installed."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ssl_audio.probes.metrics.abx import AbxItem, AbxSettings

ITEM_HEADER = "#file onset offset #phone prev-phone next-phone speaker"


def libriabx2_error(
    features: Mapping[str, np.ndarray],
    items: Sequence[AbxItem],
    *,
    frame_rate: float,
    settings: AbxSettings,
) -> float:
    """As ``abx_error``; the two agree but for the draws of groups that are too large.

    Raises:
        ValueError: the package is missing.
    """
    try:
        from zrc_abx2 import EvalABX, EvalArgs
    except ImportError as error:
        raise ValueError("ABX backend libriabx2 needs pip install 'ssl-audio[abx]'") from error
    names = {name: f"f{index}" for index, name in enumerate(features)}  # without slashes, spaces
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        for name, frames in features.items():
            np.save(Path(folder) / f"{names[name]}.npy", np.asarray(frames, np.float32))
        item_file = Path(folder) / "phones-all.item"  # it wants a name with a dash
        item_file.write_text(item_text(items, names), encoding="utf-8")
        arguments = EvalArgs(
            path_data=folder,
            path_item_file=str(item_file),
            feature_size=1 / frame_rate,
            speaker_mode=settings.speaker,
            context_mode=settings.context,
            distance_mode=settings.distance,
            max_size_group=settings.max_group_items,
            max_x_across=settings.max_x_speakers,
            seed=settings.seed,
            pooling=settings.pooling,
        )
        (result,) = EvalABX().eval_abx(arguments)
    return float(result["score"])


def item_text(items: Sequence[AbxItem], names: Mapping[str, str]) -> str:
    """Lines of an item file; a context is the two neighbours with a space between."""
    lines = [ITEM_HEADER]
    for item in items:
        before, after = item.context.split(" ")
        speaker = "_".join(item.speaker.split())
        lines.append(
            f"{names[item.file]} {item.onset_sec:.6f} {item.offset_sec:.6f} "
            f"{item.phone} {before} {after} {speaker}"
        )
    return "\n".join([*lines, ""])
