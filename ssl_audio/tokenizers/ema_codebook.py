"""The codebook of BEATs' self-distilled tokenizer: unit vectors that follow their data.

BEATs, arXiv 2212.09058, section 3.2.2; microsoft/unilm ``beats/quantizer.py``. Axes: B clips,
T frames, D channels, K codes, F valid vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_audio.batch import IGNORE_CODE
from ssl_audio.rng import sample_generator
from ssl_audio.tokenizers.mvq_search import full_float32
from ssl_audio.tokenizers.nearest import nearest_codes
from ssl_audio.tokenizers.spherical_kmeans import (
    cluster_sums,
    shared_sample,
    spherical_kmeans,
    sum_over_ranks,
)


class Quantized(NamedTuple):
    """What a codebook makes of vectors (B, T, D).

    Attributes:
        vectors: (B, T, D) float32 codebook rows; the gradient goes straight through to the
            normalised input. 0 where the input is not valid.
        codes: (B, T) int64, ``IGNORE_CODE`` where the input is not valid.
        commitment: (B, T) float32, mean over channels of the squared distance between the
            normalised input and its row, which gets no gradient. 0 where the input is not valid.
    """

    vectors: Tensor
    codes: Tensor
    commitment: Tensor


class EMACodebook(nn.Module):
    """K unit vectors, moved towards the mean of the inputs that chose them.

    A training forward only collects counts and sums; ``step``, once per optimizer step, adds them
    up over all ranks and moves the rows, so the result depends neither on the number of ranks nor
    on the accumulation. The first training forward sets the rows by k-means, with all ranks taking
    part. Everything is float32 whatever precision the module is moved to.

    Args:
        num_codes: K.
        dim: D.
        decay: share of a row and of the usage that a step keeps.
        revive_below: a row used less than this share of the mean usage is replaced by an input of
            the latest forward; 0 keeps all rows, as the original does.
        seed: of the first means and of the revived rows.

    Attributes:
        embedding: (K, D) the rows.
        usage: (K,) moving average of the vectors per step that chose each row.
        initialized: () bool, whether k-means (or a checkpoint) has set the rows.
    """

    embedding: Tensor
    usage: Tensor
    initialized: Tensor

    def __init__(
        self,
        num_codes: int,
        dim: int,
        decay: float = 0.99,
        revive_below: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if num_codes < 1 or dim < 1 or not 0 <= decay < 1 or not 0 <= revive_below < 1:
            raise ValueError(
                f"codebook of {num_codes} x {dim}, decay={decay}, revive_below={revive_below}: "
                "sizes are at least 1, decay and revive_below lie in [0, 1)"
            )
        self.num_codes = num_codes
        self.dim = dim
        self.decay = decay
        self.revive_below = revive_below
        self.seed = seed
        rows = torch.randn(num_codes, dim, dtype=torch.float32)
        self.register_buffer("embedding", functional.normalize(rows, dim=1))
        self.register_buffer("usage", torch.zeros(num_codes, dtype=torch.float32))
        self.register_buffer("initialized", torch.tensor(False))
        # Not buffers: DDP would overwrite them with rank 0's before each forward.
        self._counts: Tensor | None = None
        self._sums: Tensor | None = None
        self._latest: Tensor | None = None
        self._ready = False  # remembers initialized, which lies on the device

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Quantized:
        """Quantize; in training mode also collect what :meth:`step` needs.

        Args:
            x: (B, T, D) of any length and float type.
            valid: (B, T) bool, all when None. Other positions take no part in anything.
        """
        with full_float32():
            unit = functional.normalize(x.float(), dim=-1)
            picked = unit.detach().flatten(0, -2) if valid is None else unit.detach()[valid]
            if self.training:
                self._initialize(picked)
            codes = nearest_codes(unit.detach(), self.embedding)
            if self.training:
                self._collect(picked, codes.flatten() if valid is None else codes[valid])
            rows = functional.embedding(codes, self.embedding)
            commitment = (rows - unit).square().mean(-1)
            vectors = unit + (rows - unit).detach()
        if valid is None:
            return Quantized(vectors, codes, commitment)
        return Quantized(
            vectors.masked_fill(~valid[..., None], 0.0),
            codes.masked_fill(~valid, IGNORE_CODE),
            commitment.masked_fill(~valid, 0.0),
        )

    def encode(self, x: Tensor) -> Tensor:
        """Codes (...) int64 of vectors (..., D); nothing is collected."""
        return nearest_codes(functional.normalize(x.float(), dim=-1), self.embedding)

    @torch.no_grad()
    def step(self, index: int) -> None:
        """Move the rows by what was collected since the last step; every rank must call it.

        Sums that are not finite (an overflow in half precision) are dropped on all ranks.

        Args:
            index: of the optimizer step; which inputs revive dead rows depends on it.
        """
        assert self._counts is not None, "a training forward comes before a step"
        assert self._sums is not None
        counts, sums = self._counts, self._sums
        sum_over_ranks(counts)
        sum_over_ranks(sums)
        used = (counts > 0)[:, None]
        target = torch.where(used, functional.normalize(sums, dim=1), self.embedding)
        moved = torch.lerp(target, self.embedding, self.decay)
        finite = sums.isfinite().all()
        self.embedding.copy_(
            torch.where(finite, functional.normalize(moved, dim=1), self.embedding)
        )
        self.usage.lerp_(torch.where(finite, counts, self.usage), 1 - self.decay)
        if self.revive_below:
            self._revive(index)
        self._counts = self._sums = self._latest = None

    def perplexity(self) -> Tensor:
        """() effective number of rows in use, 1 .. K: exp(entropy) of ``usage``."""
        shares = self.usage.double() / self.usage.sum().clamp_min(torch.finfo(torch.float32).tiny)
        return torch.special.entr(shares).sum().exp().float()

    def _initialize(self, vectors: Tensor) -> None:
        self._ready = self._ready or bool(self.initialized)
        if self._ready:
            return
        generator = sample_generator(self.seed, "codebook_means", 0)
        start = shared_sample(vectors, self.num_codes, generator)
        if start is None:
            return
        means, counts = spherical_kmeans(vectors, start)
        self.embedding.copy_(means)
        self.usage.copy_(counts)
        self.initialized.fill_(True)
        self._ready = True

    def _collect(self, vectors: Tensor, codes: Tensor) -> None:
        counts, sums = cluster_sums(vectors, codes, self.num_codes)
        self._counts = counts if self._counts is None else self._counts + counts
        self._sums = sums if self._sums is None else self._sums + sums
        if self.revive_below:
            self._latest = vectors

    def _revive(self, index: int) -> None:
        """Rows that are hardly used move to inputs and count as used like the mean row."""
        assert self._latest is not None
        generator = sample_generator(self.seed, "codebook_revival", index)
        inputs = shared_sample(self._latest, self.num_codes, generator)
        if inputs is None:
            return
        mean = self.usage.mean()
        dead = (self.usage < self.revive_below * mean) & inputs.isfinite().all(1)
        self.embedding.copy_(torch.where(dead[:, None], inputs, self.embedding))
        self.usage.copy_(torch.where(dead, mean, self.usage))

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """``to``, ``cuda``, ``bfloat16``, ...: take the device from ``fn``, never the precision."""
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)
