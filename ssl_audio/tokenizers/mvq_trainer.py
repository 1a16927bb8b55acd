"""Two-phase training of a multi-codebook quantizer (multi_quantization, ``QuantizerTrainer``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_audio.rng import sample_generator
from ssl_audio.tokenizers.mvq import MultiCodebookQuantizer, QuantizerLosses
from ssl_audio.tokenizers.mvq_search import Backend


class QuantizerTrainer:
    """Trains a quantizer, with one byte per codebook by default.

    Phase one trains 2 * bytes_per_frame codebooks of sqrt(codebook_size) centers, which is fast and
    reaches a good optimum; then neighbours are merged into bytes_per_frame codebooks of
    codebook_size, and phase two trains those. As in the original, phase one takes
    ``phase_one_iters + 1`` steps.

    The result is a function of ``seed`` and the frames given to :meth:`step`. A trainer that is
    restored with :meth:`load_state_dict` goes on exactly.

    Args:
        dim: channels of the frames.
        bytes_per_frame: codebooks of the final quantizer, a power of two.
        phase_one_iters: steps after which the learning rate has been halved four times.
        phase_two_iters: the same for phase two, which starts from half the learning rate.
        lr: Adam's learning rate at the start.
        seed: of the initial weights and the number of search iterations in each step.
        device: where to train.
        backend: of the code search, see :class:`MultiCodebookQuantizer`.
        codebook_size: codes of each codebook, a square; 256 (one byte) in the original.

    Raises:
        ValueError: ``bytes_per_frame`` is not a power of two, ``codebook_size`` not a square, or a
            phase has no step.
    """

    def __init__(
        self,
        dim: int,
        bytes_per_frame: int,
        phase_one_iters: int = 10_000,
        phase_two_iters: int = 10_000,
        lr: float = 0.005,
        seed: int = 0,
        device: torch.device | str = "cpu",
        backend: Backend = "torch",
        codebook_size: int = 256,
    ) -> None:
        root = math.isqrt(codebook_size)
        if root < 2 or root * root != codebook_size:
            raise ValueError(
                f"codebook_size={codebook_size} must be a square such as 16, 64 or 256: the first "
                "phase trains twice as many codebooks of its root"
            )
        if phase_one_iters < 1 or phase_two_iters < 1:
            raise ValueError(
                f"phase_one_iters={phase_one_iters} and phase_two_iters={phase_two_iters} "
                "must be at least 1"
            )
        self.settings: dict[str, float] = {
            "dim": dim,
            "bytes_per_frame": bytes_per_frame,
            "codebook_size": codebook_size,
            "phase_one_iters": phase_one_iters,
            "phase_two_iters": phase_two_iters,
            "lr": lr,
            "seed": seed,
        }
        self.phase_one_iters = phase_one_iters
        self.phase_two_iters = phase_two_iters
        self.base_lr = lr
        self.seed = seed
        self.steps_done = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            quantizer = MultiCodebookQuantizer(dim, 2 * bytes_per_frame, root, backend)
        self._train(quantizer.to(device))

    @property
    def num_steps(self) -> int:
        """Steps of both phases."""
        return self.phase_one_iters + self.phase_two_iters + 1

    @property
    def done(self) -> bool:
        return self.steps_done >= self.num_steps

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        step = self.steps_done
        if step <= self.phase_one_iters:
            return float(self.base_lr * 0.5 ** (4 * step // self.phase_one_iters))
        step -= self.phase_one_iters + 1
        return float(self.base_lr * 0.5 ** (1 + 4 * step // self.phase_two_iters))

    def step(self, x: Tensor) -> QuantizerLosses:
        """One update on frames (F, D) of any float type; the losses before it, detached.

        Raises:
            ValueError: wrong number of channels, frames that are not finite, or training is done.
        """
        if self.done:
            raise ValueError(f"the quantizer is trained: all {self.num_steps} steps are done")
        draw = sample_generator(self.seed, "quantizer_refine_iters", self.steps_done).random()
        losses = self.quantizer.compute_loss(
            x.to(self.quantizer.centers), refine_iters=2 if draw < 0.5 else 1
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self.optimizer.zero_grad()
        losses.total.backward()
        self.optimizer.step()
        if self.steps_done == self.phase_one_iters:
            self._start_phase_two()
        self.steps_done += 1
        return QuantizerLosses(*(loss.detach() for loss in losses))

    def state_dict(self) -> dict[str, Any]:
        """Everything that :meth:`step` depends on; tensors are not copied."""
        return {
            "settings": dict(self.settings),
            "steps_done": self.steps_done,
            "quantizer": self.quantizer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the trainer that gave ``state`` was.

        Raises:
            ValueError: that trainer had other settings.
        """
        if dict(state["settings"]) != self.settings:
            raise ValueError(
                f"quantizer training was started with {state['settings']}, "
                f"not {self.settings}; use the same settings or start afresh"
            )
        quantizer = MultiCodebookQuantizer.from_state_dict(
            state["quantizer"], self.quantizer.backend
        )
        self._train(quantizer.to(self.quantizer.centers.device))
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps_done = int(state["steps_done"])

    def _train(self, quantizer: MultiCodebookQuantizer) -> None:
        self.quantizer = quantizer
        self.optimizer = torch.optim.Adam(
            quantizer.parameters(),
            lr=self.base_lr,
            betas=(0.9, 0.98),
            eps=1e-9,
            weight_decay=1e-6,
            fused=quantizer.centers.device.type in ("cpu", "cuda"),
        )

    def _start_phase_two(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 1)  # product() draws a new random name
            merged = self.quantizer.product()
        self._train(merged)


def batch_indices(num_frames: int, batch_frames: int, step: int, seed: int) -> Tensor:
    """Which frames make up the batch of a step: epochs of new orders, cut into equal batches.

    A pure function of its arguments; (batch_frames,) int64.

    Raises:
        ValueError: there are no frames.
    """
    if num_frames < 1:
        raise ValueError("there are no frames to train a quantizer on")
    positions = np.arange(step * batch_frames, (step + 1) * batch_frames)
    epochs = positions // num_frames
    parts = [
        _epoch_order(num_frames, seed, int(epoch))[positions[epochs == epoch] % num_frames]
        for epoch in np.unique(epochs)
    ]
    return torch.from_numpy(np.concatenate(parts))


@lru_cache(maxsize=2)
def _epoch_order(num_frames: int, seed: int, epoch: int) -> np.ndarray:
    return sample_generator(seed, "quantizer_frame_order", epoch).permutation(num_frames)
