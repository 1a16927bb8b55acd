from __future__ import annotations

import pytest
import torch

from ssl_audio.tokenizers import MultiCodebookQuantizer


@pytest.fixture
def random_quantizer():
    """``random_quantizer(dim, num_codebooks, codebook_size)`` with spread-out random centers."""

    def make(dim, num_codebooks, codebook_size):
        torch.manual_seed(dim + num_codebooks + codebook_size)
        quantizer = MultiCodebookQuantizer(dim, num_codebooks, codebook_size)
        with torch.no_grad():
            quantizer.centers.normal_()
            quantizer.logits_scale.fill_(0.1)
            quantizer.centers_scale.fill_(-0.05)
        return quantizer

    return make


@pytest.fixture(scope="session")
def clips():
    """Three clips of noise, one of them shorter than a BEATs patch, and their lengths."""
    lengths = torch.tensor([16_000, 9100, 700])
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(3, 16_000, generator=generator)
    return noise * (torch.arange(16_000) < lengths[:, None]), lengths
