"""EMACodebook against the BEATs release: every ``quantizer_train*.safetensors``."""

from __future__ import annotations

import json

import pytest
import torch

from ssl_audio.tokenizers.ema_codebook import EMACodebook
from ssl_audio.tokenizers.spherical_kmeans import spherical_kmeans

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def cases(golden):
    return golden("beats/quantizer_train*")


def codebook_of(case):
    config = json.loads(case.meta["config"])
    codebook = EMACodebook(config["n_embed"], config["embedding_dim"], config["decay"])
    codebook.embedding.copy_(case.tensors["codebook_before"])
    codebook.usage.copy_(case.tensors["cluster_size_before"])
    codebook.initialized.fill_(True)
    return codebook, config["beta"]


def test_training_steps_and_evaluation(cases):
    """The release also moves its usage in eval mode, which ours leaves to training."""
    for case in cases:
        codebook, beta = codebook_of(case)
        num_steps = sum(name.endswith("_upstream_grad") for name in case.tensors)
        assert num_steps, case.name
        for index in range(num_steps):
            step = case.below(f"step{index}_")
            z = step["z"].clone().requires_grad_()
            quantized = codebook(z)
            loss = beta * quantized.commitment.mean()
            (loss + (quantized.vectors * step["upstream_grad"]).sum()).backward()
            codebook.step(index)
            assert torch.equal(quantized.codes.flatten(), step["indices"]), case.name
            torch.testing.assert_close(quantized.vectors, step["z_q"], **TOLERANCE)
            torch.testing.assert_close(loss, step["loss"].squeeze(), **TOLERANCE)
            torch.testing.assert_close(z.grad, step["z_grad"], **TOLERANCE)
            torch.testing.assert_close(codebook.embedding, step["codebook_after"], **TOLERANCE)
            torch.testing.assert_close(codebook.usage, step["cluster_size_after"], **TOLERANCE)
            counts = torch.bincount(quantized.codes.flatten(), minlength=codebook.num_codes)
            assert torch.equal(counts == 0, step["dead"].bool()), case.name

        expected = case.below("eval_")
        codebook.eval()
        quantized = codebook(expected["z"])
        assert torch.equal(quantized.codes.flatten(), expected["indices"]), case.name
        assert torch.equal(codebook.encode(expected["z"]).flatten(), expected["indices"])
        torch.testing.assert_close(quantized.vectors, expected["z_q"], **TOLERANCE)
        loss = beta * quantized.commitment.mean()
        torch.testing.assert_close(loss, expected["loss"].squeeze(), **TOLERANCE)
        torch.testing.assert_close(codebook.embedding, expected["codebook_after"], **TOLERANCE)


def test_kmeans(cases):
    for case in cases:
        samples, start = case.tensors["kmeans_samples"], case.tensors["kmeans_start_means"]
        means, counts = spherical_kmeans(samples, start)
        torch.testing.assert_close(means, case.tensors["kmeans_means"], **TOLERANCE)
        assert counts.tolist() == case.tensors["kmeans_bins"].tolist(), case.name
