import pytest
import torch

from ssl_audio.tokenizers.packing import codes_per_byte, pack_codes, unpack_codes


@pytest.mark.parametrize(
    ("codebook_size", "num_codebooks", "expected"),
    [(2, 16, 8), (2, 4, 4), (4, 8, 4), (8, 8, 2), (16, 8, 2), (16, 1, 1), (32, 8, 1), (256, 4, 1)],
)
def test_round_trip(codebook_size, num_codebooks, expected):
    codes = torch.randint(codebook_size, (3, 5, num_codebooks))
    packed = pack_codes(codes, codebook_size)
    assert codes_per_byte(codebook_size, num_codebooks) == expected
    assert packed.shape == (3, 5, num_codebooks // expected)
    assert packed.dtype == torch.uint8
    assert torch.equal(unpack_codes(packed, codebook_size, num_codebooks), codes)


def test_first_code_is_the_lowest_digit():
    assert pack_codes(torch.tensor([3, 10, 0, 15]), 16).tolist() == [3 + 16 * 10, 16 * 15]
    assert pack_codes(torch.tensor([1, 2, 0, 3]), 4).tolist() == [1 + 4 * 2 + 64 * 3]


def test_codes_that_do_not_fit():
    with pytest.raises(ValueError, match="codebook_size=512"):
        pack_codes(torch.zeros(1, 2, dtype=torch.int64), 512)
