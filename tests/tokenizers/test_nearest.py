from __future__ import annotations

import torch

from ssl_audio.tokenizers import nearest
from ssl_audio.tokenizers.nearest import nearest_codes


def test_the_row_at_the_smallest_distance(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(nearest, "CPU_CHUNK_SCORES", 50)
    codebook = torch.randn(9, 5) * torch.linspace(0.1, 4, 9)[:, None]
    x = torch.randn(4, 7, 5)
    codes = nearest_codes(x, codebook)
    assert torch.equal(codes, torch.cdist(x.double(), codebook.double()).argmin(-1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest_codes(x, codebook), codes)
    assert nearest_codes(x[:0], codebook).shape == (0, 7)


def test_the_first_of_equal_rows():
    codebook = torch.tensor([[2.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    assert nearest_codes(torch.tensor([1.0, 1.5]), codebook) == 1
