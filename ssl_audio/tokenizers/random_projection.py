"""The tokenizer of BEATs' first iteration: nothing is learned.

BEATs, arXiv 2212.09058, section 3.2.1, eq. 1. The paper gives no distribution for the tables; they
are drawn, and the projections normalised, as in OpenBEATs (espnet ``espnet2/beats/
random_tokenizer.py``). Axes: B clips, T frames, P patches, D channels, K codes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_audio.batch import IGNORE_CODE, Tokens, full_lengths, valid_mask
from ssl_audio.frontends.kaldi import FRAME_LENGTH, FRAME_SHIFT, KaldiFbank
from ssl_audio.models.beats.config import NUM_MEL_BINS
from ssl_audio.models.beats.model import FEATURE_RATE_HZ, INT16_SCALE
from ssl_audio.models.padding import padded_to
from ssl_audio.tokenizers.mvq_search import full_float32
from ssl_audio.tokenizers.nearest import nearest_codes
from ssl_audio.tokenizers.tokenizer import Tokenizer


class RandomProjectionTokenizer(Tokenizer):
    """Code of a patch: the random vector nearest to the patch's random projection.

    A patch of the normalised log-mel features is projected to ``embed_dim``, normalised, projected
    to ``codebook_dim`` and normalised again. The three tables are buffers: an export holds them,
    and nothing depends on a generator that gives the same numbers in another version.

    Args:
        codebook_size: K.
        codebook_dim: channels of the codebook's rows.
        embed_dim: channels between the two projections.
        patch_size: frames and mel bins of a patch.
        fbank_mean, fbank_std: normalise the features; those of the encoder that learns from the
            codes.
        seed: of the tables.

    Raises:
        ValueError: a size that is not positive, or patches larger than the features.
    """

    kind = "random_projection"
    num_codebooks = 1

    patch_weight: Tensor
    projection: Tensor
    codebook: Tensor

    def __init__(
        self,
        codebook_size: int = 1024,
        codebook_dim: int = 256,
        embed_dim: int = 512,
        patch_size: int = 16,
        fbank_mean: float = 15.41663,
        fbank_std: float = 6.55582,
        seed: int = 0,
    ) -> None:
        super().__init__()
        wrong = min(codebook_size, codebook_dim, embed_dim, fbank_std) <= 0 or seed < 0
        if wrong or not 1 <= patch_size <= NUM_MEL_BINS:
            raise ValueError(
                "random projection: codebook_size, codebook_dim, embed_dim and fbank_std must be "
                f"positive, seed at least 0 and patch_size 1 to {NUM_MEL_BINS}"
            )
        self.codebook_size = codebook_size
        self.codebook_dim = codebook_dim
        self.embed_dim = embed_dim
        self.patch_size = patch_size
        self.fbank_mean = fbank_mean
        self.fbank_std = fbank_std
        self.seed = seed
        self.patches_per_row = NUM_MEL_BINS // patch_size
        self.frame_rate = FEATURE_RATE_HZ / patch_size * self.patches_per_row
        self.fbank = KaldiFbank(NUM_MEL_BINS, high_freq_hz=0.0, snip_edges=True)
        tables = random_tables(seed, codebook_size, codebook_dim, embed_dim, patch_size)
        for name, table in tables.items():
            self.register_buffer(name, table)

    @property
    def config(self) -> dict[str, Any]:
        return {
            "codebook_size": self.codebook_size,
            "codebook_dim": self.codebook_dim,
            "embed_dim": self.embed_dim,
            "patch_size": self.patch_size,
            "fbank_mean": self.fbank_mean,
            "fbank_std": self.fbank_std,
            "seed": self.seed,
        }

    def num_frames(self, num_samples: Any) -> Any:
        """Whole patches of a clip, the clock of :class:`ssl_audio.models.BeatsEncoder`."""
        return self._num_patches(self.fbank.num_frames(num_samples))

    @torch.no_grad()
    def encode(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tokens:
        """(B, S) float32 in [-1, 1] and valid samples (B,) to codes of 50 patches a second.

        A clip shorter than one patch has no valid code.
        """
        lengths = full_lengths(waveforms) if lengths is None else lengths
        patch_samples = FRAME_LENGTH + FRAME_SHIFT * (self.patch_size - 1)
        waveforms = padded_to(waveforms.float(), patch_samples) * INT16_SCALE
        features = self.normalize(self.fbank(waveforms, lengths))
        return self.encode_features(features, self.fbank.num_frames(lengths))

    def normalize(self, fbank: Tensor) -> Tensor:
        """Log-mel energies of samples scaled to int16 to features, as the encoder does it."""
        return (fbank - self.fbank_mean) / (2 * self.fbank_std)

    @torch.no_grad()
    def encode_features(self, features: Tensor, lengths: Tensor) -> Tokens:
        """Normalised log-mel (B, T, 128) and valid frames (B,) to codes (B, P, 1)."""
        with full_float32():
            x = functional.conv2d(
                features[:, None].float(), self.patch_weight, stride=self.patch_size
            )
            x = functional.layer_norm(x.flatten(2).mT, (self.embed_dim,))
            x = functional.layer_norm(x @ self.projection.T, (self.codebook_dim,))
        codes = nearest_codes(x, self.codebook)
        num_patches = self._num_patches(lengths)
        codes = codes.masked_fill(~valid_mask(num_patches, codes.shape[1]), IGNORE_CODE)
        return Tokens(codes[..., None], num_patches)

    def _num_patches(self, num_frames: Any) -> Any:
        return num_frames // self.patch_size * self.patches_per_row

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """``to``, ``cuda``, ``bfloat16``, ...: take the device from ``fn``, never the precision."""
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)


def random_tables(
    seed: int, codebook_size: int, codebook_dim: int, embed_dim: int, patch_size: int
) -> dict[str, Tensor]:
    """Xavier-normal projections and a codebook ~ N(0, 1), all from one generator."""
    generator = torch.Generator().manual_seed(seed)
    patch_weight = torch.empty(embed_dim, 1, patch_size, patch_size, dtype=torch.float32)
    projection = torch.empty(codebook_dim, embed_dim, dtype=torch.float32)
    return {
        "patch_weight": nn.init.xavier_normal_(patch_weight, generator=generator),
        "projection": nn.init.xavier_normal_(projection, generator=generator),
        "codebook": torch.randn(
            codebook_size, codebook_dim, generator=generator, dtype=torch.float32
        ),
    }
