"""Samples of different lengths to one padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ssl_audio.batch import IGNORE_CODE, AudioBatch, Tokens


@dataclass(frozen=True, slots=True)
class Sample:
    """One decoded clip: ``waveform`` (S,) float32, ``codes`` (T, N) by teacher, if stored."""

    id: str
    waveform: np.ndarray
    domain: int
    sample_index: int
    codes: dict[str, np.ndarray] = field(default_factory=dict)


def collate(samples: Sequence[Sample], num_codebooks: dict[str, int] | None = None) -> AudioBatch:
    """Pad with zeros, codes with ``IGNORE_CODE``.

    Args:
        samples: at least one.
        num_codebooks: N of each teacher with stored tokens; a sample without tokens of a teacher
            gets a row of length 0.
    """
    lengths = torch.tensor([len(sample.waveform) for sample in samples])
    waveforms = torch.zeros(len(samples), int(lengths.max()))
    for row, sample in zip(waveforms, samples, strict=True):
        row[: len(sample.waveform)] = torch.from_numpy(sample.waveform)
    return AudioBatch(
        waveforms=waveforms,
        lengths=lengths,
        domains=torch.tensor([sample.domain for sample in samples]),
        sample_index=torch.tensor([sample.sample_index for sample in samples]),
        ids=tuple(sample.id for sample in samples),
        codes={
            teacher: _pad_codes([sample.codes.get(teacher) for sample in samples], width)
            for teacher, width in (num_codebooks or {}).items()
        },
    )


def _pad_codes(rows: Sequence[np.ndarray | None], num_codebooks: int) -> Tokens:
    lengths = torch.tensor([0 if row is None else len(row) for row in rows])
    codes: Tensor = torch.full((len(rows), int(lengths.max()), num_codebooks), IGNORE_CODE)
    for padded, row in zip(codes, rows, strict=True):
        if row is not None:
            padded[: len(row)] = torch.from_numpy(row.astype(np.int64))
    return Tokens(codes, lengths)
