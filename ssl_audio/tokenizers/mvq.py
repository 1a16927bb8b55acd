"""Multi-codebook vector quantizer: a frame is the sum of one center from each codebook.

Guo et al., "Predicting Multi-Codebook Vector Quantization Indexes for Knowledge Distillation",
arXiv 2211.00508; parameter names as in k2-fsa/multi_quantization.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_audio.tokenizers.mvq_search import (
    BACKENDS,
    Backend,
    SearchTables,
    chunk_frames,
    full_float32,
    refine,
)
from ssl_audio.tokenizers.packing import pack_codes, unpack_codes

SCALE_SPEED = 10.0  # lets the two scale parameters move 10 times as fast as the others
EPSILON = 1e-20


class QuantizerLosses(NamedTuple):
    """Scalars of one batch of frames.

    Attributes:
        rel_reconstruction: squared error over the squared distance to the data mean; trains the
            centers.
        logprob: -log p(code), nats, mean over frames and codebooks; trains the logits.
        logits_entropy: how far the batch-averaged softmax is from uniform, 0 .. 1.
        index_entropy: the same with the counts of the codes; a diagnostic without gradient.
    """

    rel_reconstruction: Tensor
    logprob: Tensor
    logits_entropy: Tensor
    index_entropy: Tensor

    @property
    def total(self) -> Tensor:
        """The training objective (multi_quantization, ``QuantizerTrainer``)."""
        return self.rel_reconstruction + self.logprob + 0.01 * self.logits_entropy


class MultiCodebookQuantizer(nn.Module):
    """N codebooks of K centers of D channels.

    ``encode`` starts from the most likely code of each codebook under a linear classifier and then
    improves all codes together, see :mod:`ssl_audio.tokenizers.mvq_search`.

    Args:
        dim: D.
        num_codebooks: N, a power of two.
        codebook_size: K, a power of two, at least 2.
        backend: of the search: ``torch``, ``numba`` (extra ``fast``, CPU) or ``auto``.

    Raises:
        ValueError: sizes that are not powers of two, or an unknown backend.
    """

    def __init__(
        self, dim: int, num_codebooks: int, codebook_size: int, backend: Backend = "torch"
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("num_codebooks", num_codebooks, 1),
            ("codebook_size", codebook_size, 2),
        ):
            if value < least or value & (value - 1):
                raise ValueError(f"{name}={value} must be a power of two, at least {least}")
        if backend not in BACKENDS:
            raise ValueError(f"backend={backend!r} must be one of {', '.join(BACKENDS)}")
        self.dim = dim
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        self.backend: Backend = backend
        self.to_logits = nn.Linear(dim, num_codebooks * codebook_size)
        self.centers = nn.Parameter(
            self.to_logits.weight.detach().clone().view(num_codebooks, codebook_size, dim)
        )
        self.logits_scale = nn.Parameter(torch.zeros(()))
        self.centers_scale = nn.Parameter(torch.zeros(()))
        digits = torch.tensor(list(b"0123456789abcdef"), dtype=torch.uint8)
        self.id_buf: Tensor
        self.register_buffer("id_buf", digits[torch.randint(16, (8,))])
        self._tables: tuple[Tensor, SearchTables] | None = None

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], backend: Backend = "torch") -> Self:
        """From a state dict with the official names; sizes are read from ``centers``.

        ``id_buf``, a random name that nothing depends on, may be missing.

        Raises:
            ValueError: missing, unexpected or misshapen tensors.
        """
        if "centers" not in state_dict or state_dict["centers"].ndim != 3:
            raise ValueError("not a multi-codebook quantizer: 'centers' (N, K, D) is missing")
        num_codebooks, codebook_size, dim = state_dict["centers"].shape
        quantizer = cls(dim, num_codebooks, codebook_size, backend)
        own = quantizer.state_dict()
        tensors = {"id_buf": own["id_buf"], **state_dict}
        if own.keys() != tensors.keys():
            missing, unexpected = own.keys() - tensors.keys(), tensors.keys() - own.keys()
            raise ValueError(
                f"quantizer state: missing {sorted(missing)}, unexpected {sorted(unexpected)}"
            )
        for name, value in own.items():
            if tensors[name].shape != value.shape:
                raise ValueError(
                    f"quantizer state: {name} has shape {tuple(tensors[name].shape)}, "
                    f"centers ask for {tuple(value.shape)}"
                )
        quantizer.load_state_dict(tensors)
        return quantizer

    @property
    def _dtype(self) -> torch.dtype:
        """Of all arithmetic: float32, or float64 in a float64 module."""
        return torch.promote_types(self.centers.dtype, torch.float32)

    def scaled_centers(self) -> Tensor:
        """C (N, K, D), what codes stand for."""
        centers = self.centers.to(self._dtype)
        return (SCALE_SPEED * self.centers_scale.to(self._dtype)).exp() * centers

    def logits(self, x: Tensor) -> Tensor:
        """(..., D) to the classifier's (..., N, K)."""
        scaled = (SCALE_SPEED * self.logits_scale.to(self._dtype)).exp() * x.to(self._dtype)
        weight, bias = self.to_logits.weight.to(self._dtype), self.to_logits.bias.to(self._dtype)
        logits = F.linear(scaled, weight, bias)
        return logits.unflatten(-1, (self.num_codebooks, self.codebook_size))

    def data_mean(self) -> Tensor:
        """(D,): the reconstruction if all codes are equally likely, without gradient."""
        return self.scaled_centers().detach().mean(1).sum(0)

    @torch.no_grad()
    def encode(self, x: Tensor, refine_iters: int = 5, as_bytes: bool = False) -> Tensor:
        """Codes of frames; deterministic, float32 whatever the precision around it.

        Memory does not grow with the number of frames beyond the result: they are searched in
        chunks. The products of all centers are kept between calls: (N * K)^2 numbers.

        Args:
            x: (..., D).
            refine_iters: search iterations after the classifier's guess.
            as_bytes: several codes per byte where K <= 16, see ``packing``.

        Returns:
            (..., N) int64, or uint8 with the last dim divided by the codes per byte.

        Raises:
            ValueError: another number of channels, frames that are not finite.
        """
        frames = self._frames(x)
        with full_float32():
            tables = self._search_tables() if refine_iters else None
            codes = [
                self._search(chunk, self.logits(chunk), refine_iters, tables)
                for chunk in frames.split(chunk_frames(frames))
            ]
        joined = torch.cat(codes).view(*x.shape[:-1], self.num_codebooks)
        return pack_codes(joined, self.codebook_size) if as_bytes else joined

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (..., N), packed or not, to frames (..., D)."""
        given = codes.shape[-1]
        if given != self.num_codebooks:
            codes = unpack_codes(codes, self.codebook_size, self.num_codebooks)
        if codes.shape[-1] != self.num_codebooks:
            raise ValueError(f"codes have {given} entries a frame, not {self.num_codebooks}")
        offsets = torch.arange(self.num_codebooks, device=codes.device) * self.codebook_size
        rows = (codes.long() + offsets).reshape(-1, self.num_codebooks)
        # embedding_bag rather than indexing: the (frames, N, D) vectors are never built.
        summed = F.embedding_bag(rows, self.centers.to(self._dtype).flatten(0, 1), mode="sum")
        scale = (SCALE_SPEED * self.centers_scale.to(self._dtype)).exp()
        return (scale * summed).view(*codes.shape[:-1], self.dim)

    def compute_loss(self, x: Tensor, refine_iters: int = 0) -> QuantizerLosses:
        """Losses of frames (..., D) for the codes found with ``refine_iters`` iterations.

        Float32 like :meth:`encode`; the codes are constants of the gradient.

        Raises:
            ValueError: as :meth:`encode`.
        """
        frames = self._frames(x)
        with full_float32():
            logits = self.logits(frames)
            codes = self._codes_for_loss(frames, logits.detach(), refine_iters)
            error = (self.decode(codes) - frames).square().sum()
            spread = (frames - self.data_mean()).square().sum()
            log_probs = logits.log_softmax(-1)
            counts = F.one_hot(codes, self.codebook_size).to(frames.dtype)
            return QuantizerLosses(
                rel_reconstruction=error / (spread + EPSILON),
                logprob=-log_probs.gather(-1, codes[..., None]).mean(),
                logits_entropy=self._entropy_deficit(log_probs.exp().mean(0)),
                index_entropy=self._entropy_deficit(counts.mean(0)),
            )

    @torch.no_grad()
    def correlations(self) -> Tensor:
        """(N, N): how much codebooks describe the same directions, 0 .. 1; a diagnostic.

        tr(S_i S_j) / sqrt(tr(S_i^2) tr(S_j^2)) for the scatter S_i of codebook i's centers.
        """
        centered = self.centers - self.centers.mean(1, keepdim=True)
        # tr(A^T A B^T B) = |A B^T|^2, a K x K product instead of two of D x D.
        overlap = torch.stack(
            [torch.stack([(a @ b.T).square().sum() for b in centered]) for a in centered]
        )
        scale = overlap.diagonal().sqrt()
        return overlap / (scale[:, None] * scale)

    @torch.no_grad()
    def product(self) -> MultiCodebookQuantizer:
        """Half as many codebooks of K^2 centers, one for each pair of codes of two neighbours.

        The new code is k_even * K + k_odd. Reconstructions of corresponding codes are the same.
        """
        if self.num_codebooks < 2:
            raise ValueError("product() needs at least two codebooks")
        merged = MultiCodebookQuantizer(
            self.dim, self.num_codebooks // 2, self.codebook_size**2, self.backend
        ).to(self.centers)
        weight = self.to_logits.weight.view(self.num_codebooks, self.codebook_size, self.dim)
        bias = self.to_logits.bias.view(self.num_codebooks, self.codebook_size, 1)
        merged.to_logits.weight.copy_(_pair_sums(weight).flatten(0, 1))
        merged.to_logits.bias.copy_(_pair_sums(bias).flatten())
        merged.centers.copy_(_pair_sums(self.centers))
        merged.logits_scale.copy_(self.logits_scale)
        merged.centers_scale.copy_(self.centers_scale)
        return merged

    def _frames(self, x: Tensor) -> Tensor:
        """(..., D) checked, as (F, D) of the dtype of all arithmetic."""
        if x.shape[-1] != self.dim:
            raise ValueError(f"frames have {x.shape[-1]} channels, not dim={self.dim}")
        frames = x.reshape(-1, self.dim).to(self._dtype)
        if not frames.isfinite().all():
            raise ValueError("frames to quantize hold NaN or infinite values")
        return frames

    @torch.no_grad()
    def _codes_for_loss(self, frames: Tensor, logits: Tensor, refine_iters: int) -> Tensor:
        tables = SearchTables.build(self.scaled_centers()) if refine_iters else None
        size = chunk_frames(frames)
        chunks = zip(frames.split(size), logits.split(size), strict=True)
        return torch.cat([self._search(x, scores, refine_iters, tables) for x, scores in chunks])

    def _search(
        self, frames: Tensor, logits: Tensor, refine_iters: int, tables: SearchTables | None
    ) -> Tensor:
        codes = logits.argmax(-1)
        if tables is None:
            return codes
        return refine(frames, codes, tables, refine_iters, self.backend)

    def _search_tables(self) -> SearchTables:
        """The tables of the present centers. Compared by value: parameters have no version that
        every way of changing them would move."""
        centers = self.scaled_centers()
        if (
            self._tables is None
            or self._tables[0].device != centers.device
            or self._tables[0].dtype != centers.dtype
            or not torch.equal(self._tables[0], centers)
        ):
            self._tables = (centers, SearchTables.build(centers))
        return self._tables[1]

    def _entropy_deficit(self, probs: Tensor) -> Tensor:
        """(ln K - H) / ln K for the mean entropy H of distributions (N, K)."""
        entropy = -(probs * (probs + EPSILON).log()).sum(-1).mean()
        return 1 - entropy / math.log(self.codebook_size)


def _pair_sums(x: Tensor) -> Tensor:
    """(N, K, D) to (N / 2, K^2, D): every entry of 2c plus every entry of 2c + 1."""
    return (x[0::2, :, None] + x[1::2, None, :]).flatten(1, 2)
