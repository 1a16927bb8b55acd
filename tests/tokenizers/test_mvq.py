from __future__ import annotations

import pytest
import torch

from ssl_audio.tokenizers import MultiCodebookQuantizer


def test_shapes(random_quantizer):
    quantizer = random_quantizer(12, 4, 16)
    x = torch.randn(2, 3, 5, 12)
    codes = quantizer.encode(x)
    assert codes.shape == (2, 3, 5, 4)
    assert codes.dtype == torch.int64
    assert quantizer.encode(x, as_bytes=True).shape == (2, 3, 5, 2)
    assert quantizer.decode(codes).shape == x.shape
    assert torch.equal(quantizer.encode(x[0, 0, 0]), codes[0, 0, 0])
    assert quantizer.encode(x[:0]).shape == (0, 3, 5, 4)


def test_refinement_lowers_the_error(random_quantizer):
    quantizer = random_quantizer(12, 4, 16)
    x = torch.randn(200, 12)
    errors = [(quantizer.decode(quantizer.encode(x, r)) - x).square().sum() for r in (0, 1, 2)]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize(("num_codebooks", "codebook_size"), [(2, 4), (4, 8), (8, 16)])
def test_merged_codes_decode_to_the_same(random_quantizer, num_codebooks, codebook_size):
    quantizer = random_quantizer(12, num_codebooks, codebook_size)
    codes = torch.randint(codebook_size, (20, num_codebooks))
    merged = codes[:, 0::2] * codebook_size + codes[:, 1::2]
    product = quantizer.product()
    torch.testing.assert_close(product.decode(merged), quantizer.decode(codes))
    x = torch.randn(20, 12)
    first = quantizer.encode(x, 0)
    assert torch.equal(product.encode(x, 0), first[:, 0::2] * codebook_size + first[:, 1::2])


def test_codes_do_not_depend_on_the_precision_around(random_quantizer):
    quantizer = random_quantizer(64, 4, 16)
    x = torch.randn(200, 64)
    expected, losses = quantizer.encode(x), quantizer.compute_loss(x, 1)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(quantizer.encode(x), expected)
            torch.testing.assert_close(quantizer.compute_loss(x, 1), losses, atol=0, rtol=0)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_half_precision_weights(random_quantizer):
    quantizer = random_quantizer(16, 2, 16).bfloat16()
    x = torch.randn(20, 16)
    rounded = MultiCodebookQuantizer.from_state_dict(quantizer.state_dict())
    assert torch.equal(quantizer.encode(x), rounded.encode(x))
    assert quantizer.decode(quantizer.encode(x)).dtype == torch.float32


@pytest.mark.parametrize("change", ["in place", "data", "replaced", "scale", "loaded"])
def test_tables_follow_the_centers(random_quantizer, change):
    quantizer, other = random_quantizer(16, 4, 16), random_quantizer(16, 4, 16)
    x = torch.randn(100, 16)
    quantizer.encode(x)
    with torch.no_grad():
        other.centers.mul_(1.5)
        if change == "scale":
            other.centers_scale.add_(0.1)
            quantizer.centers_scale.add_(0.1)
        if change == "loaded":
            quantizer.load_state_dict(other.state_dict())
        elif change == "data":
            quantizer.centers.data.mul_(1.5)
        elif change == "replaced":
            quantizer.centers.data = other.centers.data.clone()
        else:
            quantizer.centers.mul_(1.5)
    assert torch.equal(quantizer.encode(x), other.encode(x))


def test_gradients_reach_their_parameters_only(random_quantizer):
    quantizer, x = random_quantizer(12, 4, 16), torch.randn(30, 12)
    losses = quantizer.compute_loss(x, 1)
    losses.rel_reconstruction.backward()
    trained = {name for name, p in quantizer.named_parameters() if p.grad is not None}
    assert trained == {"centers", "centers_scale"}
    quantizer.zero_grad()
    (losses.logprob + losses.logits_entropy).backward()
    trained = {name for name, p in quantizer.named_parameters() if p.grad is not None}
    assert trained == {"to_logits.weight", "to_logits.bias", "logits_scale"}
    assert not losses.index_entropy.requires_grad


def test_entropies_of_extreme_codes(random_quantizer):
    """All frames alike: one code per codebook, ln K - H is all of ln K."""
    quantizer = random_quantizer(12, 4, 16)
    assert quantizer.compute_loss(torch.ones(10, 12), 0).index_entropy.item() == pytest.approx(1)
    with torch.no_grad():
        quantizer.to_logits.weight.zero_()
        quantizer.to_logits.bias.zero_()
    uniform = quantizer.compute_loss(torch.randn(10, 12), 0)
    assert uniform.logits_entropy.item() == pytest.approx(0, abs=1e-6)
    assert uniform.logprob.item() == pytest.approx(torch.tensor(16.0).log().item())


def test_state_dict_round_trip_without_the_name(random_quantizer):
    quantizer, x = random_quantizer(12, 4, 16), torch.randn(10, 12)
    state = quantizer.state_dict()
    del state["id_buf"]
    restored = MultiCodebookQuantizer.from_state_dict(state)
    assert torch.equal(restored.encode(x), quantizer.encode(x))
    assert bytes(restored.id_buf.tolist()).isalnum()


def test_refused_states(random_quantizer):
    state = random_quantizer(12, 4, 16).state_dict()
    with pytest.raises(ValueError, match="'centers'"):
        MultiCodebookQuantizer.from_state_dict({})
    wrong = {"mean" if name == "to_logits.bias" else name: x for name, x in state.items()}
    with pytest.raises(ValueError, match=r"missing \['to_logits.bias'\], unexpected \['mean'\]"):
        MultiCodebookQuantizer.from_state_dict(wrong)
    with pytest.raises(ValueError, match=r"to_logits.bias has shape \(3,\)"):
        MultiCodebookQuantizer.from_state_dict({**state, "to_logits.bias": torch.zeros(3)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_codebooks": 3}, "num_codebooks=3 must be a power of two"),
        ({"num_codebooks": 0}, "num_codebooks=0 must be a power of two"),
        ({"codebook_size": 1}, "codebook_size=1 must be a power of two, at least 2"),
        ({"backend": "gpu"}, "backend='gpu' must be one of torch, numba, auto"),
    ],
)
def test_refused_sizes(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiCodebookQuantizer(**{"dim": 4, "num_codebooks": 2, "codebook_size": 4, **arguments})


def test_refused_frames(random_quantizer):
    quantizer = random_quantizer(12, 4, 16)
    with pytest.raises(ValueError, match="frames have 11 channels, not dim=12"):
        quantizer.encode(torch.zeros(3, 11))
    with pytest.raises(ValueError, match="NaN"):
        quantizer.encode(torch.full((3, 12), torch.nan))
    with pytest.raises(ValueError, match="codes have 3 entries a frame, not 4"):
        quantizer.decode(torch.zeros(3, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least two"):
        random_quantizer(12, 1, 16).product()
