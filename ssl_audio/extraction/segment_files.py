"""Files that hold the segments of one recording: JSON lines, Praat TextGrid, a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_audio.files import replacing
from ssl_audio.probes.token_stream import TokenSequence

PLOT_SEC = 20.0  # of a recording that a picture shows: similarities grow with the square


def segment_rows(found: TokenSequence) -> list[dict[str, Any]]:
    """``start_sec``, ``end_sec`` and ``unit`` (None without units) of each segment."""
    units = found.codes[:, 0].tolist() if found.codes.shape[1] else [None] * len(found.codes)
    times = zip(found.start_sec.tolist(), found.end_sec.tolist(), units, strict=True)
    return [{"start_sec": start, "end_sec": end, "unit": unit} for start, end, unit in times]


def write_segments(path: Path, found: TokenSequence) -> None:
    """One JSON line per segment; a recording without segments gives an empty file."""
    with replacing(path) as temporary:
        lines = [json.dumps(row) + "\n" for row in segment_rows(found)]
        temporary.write_text("".join(lines), encoding="utf-8")


def write_textgrid(path: Path, found: TokenSequence, tier: str = "syllables") -> None:
    """Praat's long text format: one interval tier without gaps, empty labels between segments."""
    end_sec = max([found.duration_sec, *found.end_sec[-1:]])
    intervals: list[tuple[float, float, str]] = []
    last = 0.0
    for index, row in enumerate(segment_rows(found)):
        if row["start_sec"] > last:
            intervals.append((last, row["start_sec"], ""))
        label = str(index if row["unit"] is None else row["unit"])
        intervals.append((row["start_sec"], row["end_sec"], label))
        last = row["end_sec"]
    if last < end_sec:
        intervals.append((last, end_sec, ""))
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {end_sec:.6f}",
        "tiers? <exists>",
        "size = 1",
        "item []:",
        "    item [1]:",
        '        class = "IntervalTier"',
        f'        name = "{tier}"',
        "        xmin = 0",
        f"        xmax = {end_sec:.6f}",
        f"        intervals: size = {len(intervals)}",
    ]
    for number, (start, end, label) in enumerate(intervals, 1):
        lines += [
            f"        intervals [{number}]:",
            f"            xmin = {start:.6f}",
            f"            xmax = {end:.6f}",
            f'            text = "{label}"',
        ]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_plot(path: Path, found: TokenSequence, waveform: np.ndarray, frame_rate: float) -> None:
    """PNG of the first ``PLOT_SEC``: spectrogram and frame similarities with the boundaries.

    Args:
        found: segments, with the frames they were found in.
        waveform: (S,) float32 at 16 kHz, from the start of the recording.
        frame_rate: of the frames, Hz.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ssl_audio.frontends import KaldiFbank

    assert found.frames is not None
    shown_sec = min(PLOT_SEC, found.duration_sec)
    samples = torch.from_numpy(waveform[: round(shown_sec * 16_000)])[None]
    mel = KaldiFbank(num_mel_bins=80)(samples)[0].T.numpy()
    frames = found.frames[: round(shown_sec * frame_rate)]
    figure = Figure(figsize=(12.0, 14.0), dpi=100, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(1, 3))
    top.imshow(mel, origin="lower", aspect="auto", extent=(0, shown_sec, 0, 80), cmap="magma")
    top.set_ylabel("mel band")
    in_sight = int((found.start_sec < shown_sec).sum())
    top.set_title(f"{found.id}: {in_sight} segments in {shown_sec:.1f} s")
    extent = (0, shown_sec, shown_sec, 0)
    similarity = _similarity(frames)
    bottom.imshow(similarity, aspect="auto", extent=extent, vmin=-1, vmax=1, cmap="RdBu_r")
    bottom.set_xlabel("seconds")
    bottom.set_ylabel("seconds")
    starts, ends = found.start_sec[:in_sight], np.minimum(found.end_sec[:in_sight], shown_sec)
    for start, end in zip(starts, ends, strict=True):
        top.axvline(start, color="white", linewidth=0.7)
        corners = [start, end, end, start, start], [start, start, end, end, start]
        bottom.plot(*corners, color="black", linewidth=0.9)
    for end in set(ends) - set(starts):  # where a pause begins
        top.axvline(end, color="white", linewidth=0.7, linestyle=":")
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))


def _similarity(frames: Tensor) -> np.ndarray:
    """(T, T) cosine similarities; silent frames stay near 0 because norms below 1 do not grow."""
    x = frames.float() / frames.float().norm(dim=1, keepdim=True).clamp_min(1.0)
    return (x @ x.T).numpy()
