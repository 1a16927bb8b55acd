"""Teacher codes on the student's clock (SPEAR, arXiv 2510.25955).

A slower teacher's codes are repeated, a faster teacher's are folded into the codebook axis. There
is no shift compensation: code frame i belongs to student frame i.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ssl_audio.batch import IGNORE_CODE, Tokens

MAX_RATIO = 8
RATE_TOLERANCE = 1e-3  # relative; 1.5 frames over 30 s at 50 Hz
MAX_MISSING_FRAMES = 5  # student frames at a clip's end that may lack codes


class FrameRatio(NamedTuple):
    """Each code frame is repeated ``repeat`` times, then ``fold`` frames go into one."""

    repeat: int
    fold: int


def frame_ratio(student_rate: float, code_rate: float) -> FrameRatio:
    """How codes at ``code_rate`` Hz fit a student at ``student_rate`` Hz.

    Raises:
        ValueError: neither rate is a multiple (up to 8) of the other.
    """
    if student_rate > 0 and code_rate > 0:
        repeat = max(1, round(student_rate / code_rate))
        fold = max(1, round(code_rate / student_rate))
        error = abs(code_rate * repeat / (student_rate * fold) - 1.0)
        if max(repeat, fold) <= MAX_RATIO and error <= RATE_TOLERANCE:
            return FrameRatio(repeat, fold)
    raise ValueError(
        f"a teacher with another frame rate: {code_rate:g} Hz codes do not fit a student at "
        f"{student_rate:g} Hz; choose a teacher whose rate is an integer multiple or fraction "
        f"(up to {MAX_RATIO}) of the student's"
    )


def align_codes(
    tokens: Tokens,
    num_frames: int,
    student_rate: float,
    code_rate: float,
    lengths: Tensor | None = None,
) -> Tensor:
    """Targets (B, num_frames, fold * N) int64, ``IGNORE_CODE`` where there is none.

    Folded codes are frame-major: the N codebooks of the first code frame come first.

    Args:
        tokens: codes (B, T_codes, N); a clip without codes has length 0.
        num_frames: T of the student.
        student_rate: Hz.
        code_rate: Hz.
        lengths: (B,) valid student frames. When given, clips that have codes must have them up to
            the last ``MAX_MISSING_FRAMES`` student frames (reads the lengths, so it waits for the
            device).

    Raises:
        ValueError: the rates do not fit, or a clip has too few codes.
    """
    repeat, fold = frame_ratio(student_rate, code_rate)
    if lengths is not None:
        _check_covered(tokens.lengths * repeat // fold, lengths)
    codes = tokens.codes.repeat_interleave(repeat, dim=1) if repeat > 1 else tokens.codes
    codes = codes[:, : num_frames * fold]
    codes = F.pad(codes, (0, 0, 0, num_frames * fold - codes.shape[1]), value=IGNORE_CODE)
    return codes.reshape(codes.shape[0], num_frames, fold * codes.shape[2])


def _check_covered(available: Tensor, needed: Tensor) -> None:
    missing = (needed - available) * (available > 0)
    clip = int(missing.argmax())
    if missing[clip] > MAX_MISSING_FRAMES:
        raise ValueError(
            f"clip {clip} of the batch has teacher codes for {int(available[clip])} of its "
            f"{int(needed[clip])} student frames; check the teacher's frame_rate and that its "
            "codes were extracted from the same audio"
        )
