from __future__ import annotations

import pytest
import torch

from ssl_audio.batch import IGNORE_CODE, Tokens
from ssl_audio.tasks.alignment import align_codes, frame_ratio


def counting_tokens(num_frames: int, num_codebooks: int = 2) -> Tokens:
    codes = torch.arange(num_frames * num_codebooks).view(1, num_frames, num_codebooks)
    return Tokens(codes, torch.tensor([num_frames]))


@pytest.mark.parametrize(
    ("student", "codes", "ratio"),
    [(50, 50, (1, 1)), (50, 25, (2, 1)), (25, 50, (1, 2)), (12.5, 50, (1, 4)), (50, 49.99, (1, 1))],
)
def test_ratio(student: float, codes: float, ratio: tuple[int, int]) -> None:
    assert frame_ratio(student, codes) == ratio


@pytest.mark.parametrize(("student", "codes"), [(50, 62.5), (50, 75), (50, 0), (50, 49), (50, 1)])
def test_other_rates_are_refused(student: float, codes: float) -> None:
    with pytest.raises(
        ValueError, match=f"another frame rate: {codes:g} Hz codes .* {student:g} Hz"
    ):
        frame_ratio(student, codes)


def test_equal_rates_cut_and_pad() -> None:
    tokens = counting_tokens(4)
    torch.testing.assert_close(align_codes(tokens, 3, 50, 50), tokens.codes[:, :3])
    padded = align_codes(tokens, 6, 50, 50)
    torch.testing.assert_close(padded[:, :4], tokens.codes)
    assert (padded[:, 4:] == IGNORE_CODE).all()


def test_slow_codes_are_repeated() -> None:
    aligned = align_codes(counting_tokens(3), 5, 50, 25)
    assert aligned[0].tolist() == [[0, 1], [0, 1], [2, 3], [2, 3], [4, 5]]


def test_fast_codes_are_folded_frame_major() -> None:
    aligned = align_codes(counting_tokens(5), 3, 25, 50)
    ignored = [IGNORE_CODE, IGNORE_CODE]
    assert aligned[0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, *ignored]]


def test_a_batch_without_codes_has_no_targets() -> None:
    tokens = Tokens(torch.zeros(2, 0, 8, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    aligned = align_codes(tokens, 7, 50, 25, torch.tensor([7, 5]))
    assert aligned.shape == (2, 7, 8)
    assert (aligned == IGNORE_CODE).all()


def test_missing_codes_are_reported_with_the_clip() -> None:
    codes = torch.zeros(3, 40, 2, dtype=torch.int64)
    tokens = Tokens(codes, torch.tensor([40, 30, 0]))
    align_codes(tokens, 45, 50, 50, torch.tensor([45, 35, 45]))
    with pytest.raises(ValueError, match="clip 1 of the batch has teacher codes for 30 of its 36"):
        align_codes(tokens, 45, 50, 50, torch.tensor([45, 36, 45]))
