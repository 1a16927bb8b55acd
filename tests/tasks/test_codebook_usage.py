from __future__ import annotations

import pytest
import torch

from ssl_audio.batch import IGNORE_CODE
from ssl_audio.tasks.codebook_usage import codebook_perplexity, codebook_usage


def test_usage_counts_per_codebook() -> None:
    codes = torch.tensor([[[0, 2], [0, IGNORE_CODE]], [[1, 2], [IGNORE_CODE, IGNORE_CODE]]])
    assert codebook_usage(codes, 3).tolist() == [[2, 1, 0], [0, 0, 2]]


def test_usage_of_batches_adds_up() -> None:
    codes = torch.randint(7, (4, 11, 3))
    parts = codebook_usage(codes[:1], 7) + codebook_usage(codes[1:], 7)
    torch.testing.assert_close(codebook_usage(codes, 7), parts)


def test_perplexity_counts_equally_used_entries() -> None:
    counts = torch.tensor([[5, 5, 5, 5], [0, 9, 0, 0], [3, 0, 3, 0], [0, 0, 0, 0]])
    assert codebook_perplexity(counts).tolist() == pytest.approx([4.0, 1.0, 2.0, 1.0])
