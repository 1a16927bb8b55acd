"""k-means units: clustering of streamed vectors, and an encoder's frames as units.

Axes: B clips, T frames, D channels, K units.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ssl_audio.batch import IGNORE_CODE, Tokens, valid_mask
from ssl_audio.models.encoder import Encoder
from ssl_audio.tokenizers.nearest import nearest_codes
from ssl_audio.tokenizers.teacher_tokens import teacher_rows
from ssl_audio.tokenizers.tokenizer import Tokenizer

START_VECTORS_PER_UNIT = 3  # to start from, as scikit-learn's init_size
MOST_SPREAD_UNITS = 1000  # k-means++ of 5,000 takes minutes, of 20,000 hours


def fit_kmeans(
    batches: Iterable[Tensor | np.ndarray], num_units: int, *, seed: int, batch_size: int = 10_000
) -> Tensor:
    """Mini-batch k-means over vectors that need not fit into memory.

    scikit-learn's ``MiniBatchKMeans`` without reassignment, started on the first vectors by
    k-means++, or with more than 1,000 units by a random choice of them as faiss does, then one step
    for each ``batch_size`` vectors. For several passes, repeat the data in
    ``batches``.

    Args:
        batches: of (F, D) vectors, F as it comes.
        num_units: K.
        seed: of the start.
        batch_size: vectors of a step (SD-HuBERT and HuBERT: 10 000).

    Returns:
        (K, D) float32 centroids.

    Raises:
        ValueError: fewer vectors than units.
    """
    from sklearn.cluster import MiniBatchKMeans

    kmeans = MiniBatchKMeans(
        num_units,
        init="k-means++" if num_units <= MOST_SPREAD_UNITS else "random",
        batch_size=batch_size,
        n_init=1,
        reassignment_ratio=0.0,
        random_state=seed,
    )
    start_size = max(START_VECTORS_PER_UNIT * num_units, batch_size)
    waiting: list[np.ndarray] = []
    started = False
    for batch in batches:
        waiting.append(np.asarray(torch.as_tensor(batch).float().cpu()))
        size = batch_size if started else start_size
        if sum(map(len, waiting)) >= size:
            vectors = np.concatenate(waiting)
            whole = len(vectors) - len(vectors) % batch_size if started else len(vectors)
            for chunk in np.split(vectors[:whole], range(size, whole, size)):
                kmeans.partial_fit(chunk)
            started, waiting = True, [vectors[whole:]]
    rest = np.concatenate(waiting) if waiting else np.zeros((0, 1), np.float32)
    if len(rest) < num_units and not started:
        raise ValueError(f"{len(rest)} vectors for {num_units} units; give more audio or ask fewer")
    if len(rest):
        kmeans.partial_fit(rest)
    return torch.from_numpy(kmeans.cluster_centers_.astype(np.float32))


class KMeansTokenizer(Tokenizer):
    """Nearest k-means centroid of each frame of a frozen encoder (HuBERT, arXiv 2106.07447).

    The patches that an encoder has for one stretch of time are one frame, side by side.

    Args:
        teacher: any encoder; it is set to eval mode and stops collecting gradients.
        centroids: (K, D), float32.
        layer: index into the teacher's ``hidden_states``; None for its final ``frames``.
    """

    kind = "kmeans"
    num_codebooks = 1
    centroids: Tensor

    def __init__(self, teacher: Encoder, centroids: Tensor, layer: int | None = None) -> None:
        super().__init__()
        self.teacher = teacher
        self.layer = layer
        self.register_buffer("centroids", centroids.float())
        self.sample_rate = teacher.sample_rate
        self.frame_rate = teacher.frame_rate / teacher.patches_per_row
        self.codebook_size = len(centroids)
        self.requires_grad_(False)
        self.eval()

    @property
    def config(self) -> dict[str, Any]:
        return {
            "teacher": {"kind": self.teacher.kind, "config": self.teacher.config},
            "layer": self.layer,
            "num_units": self.codebook_size,
            "dim": self.centroids.shape[1],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """With zeros for centroids; the teacher's kind is looked up in :mod:`ssl_audio.hub`."""
        from ssl_audio import hub

        centroids = torch.zeros(config["num_units"], config["dim"])
        return cls(hub.build(config["teacher"]), centroids, config["layer"])

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode: codes must not depend on who asks for them."""
        return super().train(False)

    def num_frames(self, num_samples: Any) -> Any:
        return self.teacher.num_frames(num_samples) // self.teacher.patches_per_row

    @torch.no_grad()
    def encode(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tokens:
        """(B, S) float32 in [-1, 1] and valid samples (B,) to codes (B, T, 1)."""
        frames, frame_lengths = teacher_rows(self.teacher, self.layer, waveforms, lengths)
        codes = nearest_codes(frames, self.centroids)
        codes = codes.masked_fill(~valid_mask(frame_lengths, frames.shape[1]), IGNORE_CODE)
        return Tokens(codes[..., None], frame_lengths)
