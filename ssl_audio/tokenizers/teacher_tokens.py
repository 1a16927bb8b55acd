"""Codes of a frozen teacher's frames: the prediction targets of SPEAR (arXiv 2510.25955)."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from ssl_audio.batch import IGNORE_CODE, Tokens, valid_mask
from ssl_audio.models.encoder import Encoder
from ssl_audio.tokenizers.mvq import MultiCodebookQuantizer
from ssl_audio.tokenizers.mvq_search import Backend, full_float32
from ssl_audio.tokenizers.tokenizer import Tokenizer

MIN_STD = 1e-5  # a channel that never moves is left at 0


def teacher_frames(
    teacher: Encoder, layer: int | None, waveforms: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Frames to quantize, without gradient and in float32 whatever the precision around it.

    Args:
        layer: index into ``hidden_states``, negative from the end; None for the final ``frames``.
        waveforms: (B, S), and ``lengths`` (B,) as in :meth:`Encoder.forward`.

    Returns:
        (B, T, D) frames and (B,) valid frames.

    Raises:
        ValueError: the teacher has no such layer.
    """
    count = teacher.num_layers + 1
    if layer is not None and not -count <= layer < count:
        raise ValueError(
            f"layer={layer}: teacher {teacher.kind!r} has hidden states 0 .. {count - 1}"
        )
    with torch.no_grad(), full_float32():
        output = teacher(waveforms.float(), lengths)
    return output.frames if layer is None else output.hidden_states[layer], output.lengths


def teacher_rows(
    teacher: Encoder, layer: int | None, waveforms: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``teacher_frames`` where the patches of one stretch of time are one frame, side by side.

    A student's frame has its place in time, but no band of frequency that a patch could be for.
    """
    frames, frame_lengths = teacher_frames(teacher, layer, waveforms, lengths)
    rows = frames.unflatten(1, (-1, teacher.patches_per_row)).flatten(2)
    return rows, frame_lengths // teacher.patches_per_row


def channel_statistics(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) of frames (F, D), float32, for :func:`normalize_channels`.

    SPEAR normalises WavLM's frames this way before quantization, Dasheng's not (spec of the
    authors' ``train_mvq.py``).
    """
    std, mean = torch.std_mean(frames.double(), dim=0, correction=0)
    return mean.float(), std.float()


def normalize_channels(frames: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(frames - mean) / std for frames (..., D)."""
    return (frames - mean) / std.clamp_min(MIN_STD)


class MVQTokenizer(Tokenizer):
    """A frozen teacher's rows, normalised per channel if asked for, then a quantizer.

    Args:
        teacher: any encoder; it is set to eval mode and stops collecting gradients.
        quantizer: of as many channels as the layer has.
        layer: index into the teacher's ``hidden_states``; None for its final ``frames``.
        mean: (D,) with ``std`` (D,): from :func:`channel_statistics`; None for no normalisation.
        refine_iters: search iterations of the quantizer.

    Raises:
        ValueError: only one of ``mean`` and ``std`` is given.
    """

    kind = "mvq"

    def __init__(
        self,
        teacher: Encoder,
        quantizer: MultiCodebookQuantizer,
        layer: int | None = None,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        refine_iters: int = 5,
    ) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise ValueError("give both mean and std of the teacher's channels, or neither")
        self.teacher = teacher
        self.quantizer = quantizer
        self.layer = layer
        self.refine_iters = refine_iters
        self.mean: Tensor | None
        self.std: Tensor | None
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.sample_rate = teacher.sample_rate
        self.frame_rate = teacher.frame_rate / teacher.patches_per_row
        self.num_codebooks = quantizer.num_codebooks
        self.codebook_size = quantizer.codebook_size
        self.requires_grad_(False)
        self.eval()

    @property
    def config(self) -> dict[str, Any]:
        return {
            "teacher": {"kind": self.teacher.kind, "config": self.teacher.config},
            "layer": self.layer,
            "dim": self.quantizer.dim,
            "num_codebooks": self.num_codebooks,
            "codebook_size": self.codebook_size,
            "normalize": self.mean is not None,
            "refine_iters": self.refine_iters,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], backend: Backend = "torch") -> Self:
        """With fresh weights; the teacher's kind is looked up in :mod:`ssl_audio.hub`."""
        from ssl_audio import hub

        dim = config["dim"]
        quantizer = MultiCodebookQuantizer(
            dim, config["num_codebooks"], config["codebook_size"], backend
        )
        return cls(
            hub.build(config["teacher"]),
            quantizer,
            config["layer"],
            mean=torch.zeros(dim) if config["normalize"] else None,
            std=torch.ones(dim) if config["normalize"] else None,
            refine_iters=config["refine_iters"],
        )

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode: codes must not depend on who asks for them."""
        return super().train(False)

    def num_frames(self, num_samples: Any) -> Any:
        return self.teacher.num_frames(num_samples) // self.teacher.patches_per_row

    @torch.no_grad()
    def encode(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tokens:
        """(B, S) float32 in [-1, 1] and valid samples (B,) to codes; padding is ``IGNORE_CODE``."""
        frames, frame_lengths = teacher_rows(self.teacher, self.layer, waveforms, lengths)
        valid = valid_mask(frame_lengths, frames.shape[1])
        picked = frames[valid].float()
        if self.mean is not None and self.std is not None:
            picked = normalize_channels(picked, self.mean, self.std)
        codes = frame_lengths.new_full((*valid.shape, self.num_codebooks), IGNORE_CODE)
        codes[valid] = self.quantizer.encode(picked, refine_iters=self.refine_iters)
        return Tokens(codes, frame_lengths)
