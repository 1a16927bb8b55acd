"""MultiCodebookQuantizer against multi_quantization 0e944e5: every ``mvq_*.safetensors``."""

from __future__ import annotations

import re

import pytest
import torch

from ssl_audio.tokenizers import MultiCodebookQuantizer

TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}


def quantizer_of(case, prefix="sd."):
    return MultiCodebookQuantizer.from_state_dict(case.below(prefix))


@pytest.fixture(scope="module")
def cases(golden):
    return golden("spear/mvq_*")


def test_sizes_come_from_the_state(cases):
    for case in cases:
        quantizer = quantizer_of(case)
        sizes = {
            name: str(getattr(quantizer, name))
            for name in ("dim", "num_codebooks", "codebook_size")
        }
        assert sizes == {name: case.meta[name] for name in sizes}, case.name


def test_logits(cases):
    for case in cases:
        logits = quantizer_of(case).logits(case.tensors["x"][:20]).flatten(-2)
        torch.testing.assert_close(logits, case.tensors["logits_first20"], **TOLERANCE)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_codes_are_equal(cases, backend):
    for case in cases:
        quantizer = quantizer_of(case)
        quantizer.backend = backend
        compared = 0
        for name, codes in case.tensors.items():
            if match := re.fullmatch(r"codes_refine(\d+)(_float64)?", name):
                module = quantizer_of(case).double() if match[2] else quantizer
                found = module.encode(case.tensors["x"], refine_iters=int(match[1]))
                assert torch.equal(found, codes), (case.name, name)
                compared += 1
        assert compared, case.name


def test_packed_codes(cases):
    for case in cases:
        quantizer = quantizer_of(case)
        packed = quantizer.encode(case.tensors["x"], as_bytes=True)
        assert torch.equal(packed, case.tensors["encode_default_bytes"]), case.name
        torch.testing.assert_close(quantizer.decode(packed), case.tensors["decode"], **TOLERANCE)


def test_reconstruction(cases):
    for case in cases:
        quantizer, x = quantizer_of(case), case.tensors["x"]
        decoded = quantizer.decode(case.tensors["codes_refine5"])
        torch.testing.assert_close(decoded, case.tensors["decode"], **TOLERANCE)
        for name, errors in case.tensors.items():
            if name.startswith("sqerr_per_frame_refine_"):
                iters = name.removeprefix("sqerr_per_frame_refine_").split("_")
                codes = [quantizer.encode(x, refine_iters=int(count)) for count in iters]
                found = torch.stack([(quantizer.decode(z) - x).square().sum(-1) for z in codes])
                torch.testing.assert_close(found, errors, **TOLERANCE)


def test_statistics(cases):
    for case in cases:
        quantizer = quantizer_of(case)
        expected = case.tensors
        torch.testing.assert_close(quantizer.data_mean(), expected["data_mean"], **TOLERANCE)
        torch.testing.assert_close(quantizer.correlations(), expected["correlations"], **TOLERANCE)


def test_losses(cases):
    for case in cases:
        quantizer = quantizer_of(case)
        iters = case.tensors["loss_refine_iters"].tolist()
        for count, expected in zip(iters, case.tensors["losses"], strict=True):
            losses = torch.stack(quantizer.compute_loss(case.tensors["x"], refine_iters=count))
            torch.testing.assert_close(losses, expected, atol=1e-6, rtol=1e-4)


def test_gradients(cases):
    for case in cases:
        quantizer = quantizer_of(case)
        total = quantizer.compute_loss(case.tensors["x"], refine_iters=1).total
        total.backward()
        torch.testing.assert_close(total, case.tensors["grad_loss_total"], **TOLERANCE)
        gradients = {name: p.grad for name, p in quantizer.named_parameters()}
        torch.testing.assert_close(gradients, case.below("grad."), **TOLERANCE)


def test_merged_quantizer(cases):
    """Only some files have one: it needs 2 codebooks, and the original merges 16 centers only."""
    for case in (case for case in cases if case.below("product_sd.")):
        product = quantizer_of(case).product()
        expected, x = case.below("product_sd."), case.tensors["x"]
        found = {name: tensor for name, tensor in product.state_dict().items() if name in expected}
        torch.testing.assert_close(found, expected, **TOLERANCE)
        for name, codes in case.below("product_codes_refine").items():
            assert torch.equal(product.encode(x, refine_iters=int(name)), codes), case.name
        packed = product.encode(x, as_bytes=True)
        assert torch.equal(packed, case.tensors["product_bytes"]), case.name
        expected_frames = case.tensors["product_decode"]
        torch.testing.assert_close(product.decode(packed), expected_frames, **TOLERANCE)
