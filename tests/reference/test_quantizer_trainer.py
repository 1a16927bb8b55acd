"""QuantizerTrainer against multi_quantization: every ``quantizer_trainer*.safetensors``."""

from __future__ import annotations

import pytest
import torch

from ssl_audio.tokenizers import MultiCodebookQuantizer, QuantizerTrainer
from ssl_audio.tokenizers.mvq_trainer import batch_indices


@pytest.fixture(scope="module")
def cases(golden):
    return golden("spear/quantizer_trainer*")


def test_schedule_and_final_error(cases):
    """The schedule is deterministic; the error is held to the worst of the original's seeds."""
    for case in cases:
        meta, expected = case.meta, case.tensors
        trainer = QuantizerTrainer(
            int(meta["dim"]),
            int(meta["bytes_per_frame"]),
            int(meta["phase_one_iters"]),
            int(meta["phase_two_iters"]),
            lr=float(meta["lr"]),
        )
        train, trace = expected["train"].float(), []
        while not trainer.done:
            quantizer = trainer.quantizer
            trace.append((trainer.lr, quantizer.num_codebooks, quantizer.codebook_size))
            batch = batch_indices(len(train), int(meta["batch"]), trainer.steps_done, seed=0)
            trainer.step(train[batch])
        lr, num_codebooks, codebook_size = zip(*trace, strict=True)
        assert list(lr) == expected["lr_per_step"].tolist(), case.name
        assert list(num_codebooks) == expected["num_codebooks_per_step"].tolist(), case.name
        assert list(codebook_size) == expected["codebook_size_per_step"].tolist(), case.name
        assert len(trace) == int(meta["total_steps"])

        losses = trainer.quantizer.compute_loss(expected["valid"], refine_iters=5)
        worst = expected["final_valid_losses_per_seed"][:, 0].max().item()
        assert losses.rel_reconstruction.item() <= 1.06 * worst, case.name


def test_codes_of_the_trained_original(cases):
    for case in cases:
        quantizer = MultiCodebookQuantizer.from_state_dict(case.below("final_sd_lastseed."))
        packed = quantizer.encode(case.tensors["valid"][:50], as_bytes=True)
        assert torch.equal(packed, case.tensors["final_encode_first50_lastseed"]), case.name
        losses = quantizer.compute_loss(case.tensors["valid"], refine_iters=5)
        expected = case.tensors["final_valid_losses_per_seed"][-1].float()
        torch.testing.assert_close(torch.stack(losses), expected, atol=1e-6, rtol=1e-4)
