"""The tokenizer of BEATs' later iterations: an encoder whose patches are named by a codebook.

BEATs, arXiv 2212.09058, section 3.2.2; microsoft/unilm ``beats/Tokenizers.py``. Axes: B clips,
S samples, T feature frames, P patches, C encoder channels, D codebook channels, K codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from ssl_audio.batch import Tokens, full_lengths, valid_mask
from ssl_audio.checkpoints import CheckpointError, load_strict
from ssl_audio.models.beats import BeatsConfig, BeatsEncoder
from ssl_audio.models.beats.checkpoint import naming, our_tensors, read_release
from ssl_audio.models.beats.config import TOKENIZER_KEYS
from ssl_audio.tokenizers.ema_codebook import EMACodebook, Quantized
from ssl_audio.tokenizers.mvq_search import full_float32
from ssl_audio.tokenizers.tokenizer import Tokenizer

CODEBOOK = "quantize.embedding.weight"
# Official quantizer tensors and ours. The last two are written once, by k-means, and never read.
CODEBOOK_NAMES = {
    CODEBOOK: "codebook.embedding",
    "quantize.cluster_size": "codebook.usage",
    "quantize.embedding.initted": "codebook.initialized",
}
UNUSED_NAMES = ("quantize.embedding.cluster_size", "quantize.embedding.embed_avg")


class TokenizerOutput(NamedTuple):
    """``quantized`` patches of a batch, (B, P, ...), and ``lengths`` (B,) valid patches."""

    quantized: Quantized
    lengths: Tensor


class DistilledTokenizer(Tokenizer):
    """A BEATs encoder, two linear layers, and the nearest of K learned unit vectors.

    Trained as :func:`ssl_audio.tokenizers.estimator.distill` says: a module call quantizes with
    gradient, ``encode`` gives codes in eval mode and float32 whatever surrounds it.

    Args:
        encoder: keys of ``BeatsConfig``.
        codebook_size: K.
        codebook_dim: D.
        decay, revive_below, seed: of :class:`EMACodebook`.

    Raises:
        ValueError: a config key or value that cannot be used, named.
    """

    kind = "beats_tokenizer"
    num_codebooks = 1

    def __init__(
        self,
        encoder: Mapping[str, Any] | None = None,
        codebook_size: int = 1024,
        codebook_dim: int = 256,
        decay: float = 0.99,
        revive_below: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = BeatsEncoder(**(encoder or {}))
        width = self.encoder.embed_dim
        self.quantize_layer = nn.Sequential(
            nn.Linear(width, width), nn.Tanh(), nn.Linear(width, codebook_dim)
        )
        self.codebook = EMACodebook(codebook_size, codebook_dim, decay, revive_below, seed)
        self.codebook_size = codebook_size
        self.frame_rate = self.encoder.frame_rate

    @property
    def config(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder.config,
            "codebook_size": self.codebook_size,
            "codebook_dim": self.codebook.dim,
            "decay": self.codebook.decay,
            "revive_below": self.codebook.revive_below,
            "seed": self.codebook.seed,
        }

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Official tensors and ``cfg``; strict. The codebook's sizes are those of its tensor.

        Raises:
            ValueError: missing, unexpected or misshapen tensors, a config that cannot be used, or a
                codebook that was never initialised.
        """
        return cls._from_official(state_dict, config, "the state dict")

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> Self:
        """An official tokenizer file, ``{"cfg", "model"}``.

        Raises:
            CheckpointError: not such a file.
        """
        tensors, config = read_release(path)
        with naming(path):
            return cls._from_official(tensors, config, path)

    @classmethod
    def _from_official(
        cls, state_dict: Mapping[str, Tensor], config: Mapping[str, Any], source: object
    ) -> Self:
        rows = state_dict.get(CODEBOOK)
        if rows is None or rows.ndim != 2:
            raise CheckpointError(
                f"{source} is not a BEATs tokenizer: it has no codebook {CODEBOOK} (K, D); "
                "encoders are read by load_encoder"
            )
        encoder = {key: value for key, value in config.items() if key not in TOKENIZER_KEYS}
        tokenizer = cls(BeatsConfig.parse_official(encoder).to_dict(), *rows.shape)
        load_strict(tokenizer, tokenizer_tensors(state_dict, source), source)
        if not tokenizer.codebook.initialized:
            raise CheckpointError(
                f"{source}: the codebook was never initialised; use a trained tokenizer"
            )
        return tokenizer

    def num_frames(self, num_samples: Any) -> Any:
        return self.encoder.num_frames(num_samples)

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> TokenizerOutput:
        """(B, S) float32 in [-1, 1] and valid samples (B,), all of S when None."""
        lengths = full_lengths(waveforms) if lengths is None else lengths
        return self.forward_features(*self.encoder.features(waveforms, lengths))

    def forward_features(self, features: Tensor, lengths: Tensor | None = None) -> TokenizerOutput:
        """Normalised log-mel (B, T, 128) and valid frames (B,), all when None.

        In training mode the codebook collects what its ``step`` needs.
        """
        projected, patch_lengths = self.project(features, lengths)
        valid = valid_mask(patch_lengths, projected.shape[1])
        return TokenizerOutput(self.codebook(projected, valid), patch_lengths)

    def project(self, features: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features to what is quantized (B, P, D), of any length, and valid patches (B,)."""
        out = self.encoder.forward_features(features, lengths)
        return self.quantize_layer(out.frames), out.lengths

    @torch.no_grad()
    def encode(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tokens:
        """(B, S) float32 in [-1, 1] and valid samples (B,) to codes (B, P, 1) of 50 patches a
        second; padding is ``IGNORE_CODE``."""
        training = self.training
        self.eval()
        try:
            with full_float32():
                quantized, patch_lengths = self(waveforms.float(), lengths)
        finally:
            self.train(training)
        return Tokens(quantized.codes[..., None], patch_lengths)


def tokenizer_tensors(state_dict: Mapping[str, Tensor], source: object) -> dict[str, Tensor]:
    """Official tokenizer tensors under our names.

    Raises:
        CheckpointError: the layers' position tables differ.
    """
    tensors = {}
    for name, tensor in our_tensors(state_dict, source).items():
        if name in UNUSED_NAMES:
            continue
        if name == "quantize.embedding.initted":
            tensor = tensor.bool().all()
        inside = name.startswith("quantize_layer.")
        tensors[CODEBOOK_NAMES.get(name, name if inside else f"encoder.{name}")] = tensor
    return tensors
