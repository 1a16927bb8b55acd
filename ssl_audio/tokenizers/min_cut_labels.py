"""Syllable labels of SD-HuBERT's frames: what Sylber's first stage learns from.

SD-HuBERT (arXiv 2310.10803; cheoljun95/sdhubert at 3c98c02): frames whose norm is small are
silence, the rest is cut by min-cut. Axes: B clips, T frames, D channels, N segments.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ssl_audio.batch import IGNORE_CODE, Tokens, full_lengths
from ssl_audio.models.encoder import Encoder
from ssl_audio.models.padding import normalized
from ssl_audio.tokenizers.mincut import segment_min_cut
from ssl_audio.tokenizers.mvq_search import full_float32
from ssl_audio.tokenizers.syllables import runs_of
from ssl_audio.tokenizers.tokenizer import Tokenizer

MIN_RUN_FRAMES = 2  # a shorter stretch of speech has nothing to cut
PERCENTILES = (1, 99)  # of a clip's norms: silence and loudest speech


class MinCutTokenizer(Tokenizer):
    """Labels 1, 2, 1 ... of a clip's segments in order of time, 0 outside of them.

    Args:
        teacher: an encoder whose norms fall in silence; it is set to eval mode and stops
            collecting gradients.
        feature_layer: index into its hidden states, whose similarities are cut.
        norm_layer: index into them, whose norms tell speech from silence.
        norm_cut: least norm of speech, 0 being the clip's 1st percentile and 1 its 99th.
        min_amplitude: least mean absolute amplitude of a run of speech, in standard deviations of
            the clip.
        segment_sec: a run gets a boundary for each such length.
        merge_threshold: cosine from which neighbours are joined again.

    Raises:
        ValueError: a layer that the teacher does not have, or ``segment_sec`` not above 0.
    """

    kind = "min_cut"
    num_codebooks = 1
    codebook_size = 3

    def __init__(
        self,
        teacher: Encoder,
        feature_layer: int,
        norm_layer: int,
        norm_cut: float,
        min_amplitude: float,
        segment_sec: float,
        merge_threshold: float,
    ) -> None:
        super().__init__()
        for name, layer in (("feature_layer", feature_layer), ("norm_layer", norm_layer)):
            if not 0 <= layer <= teacher.num_layers:
                raise ValueError(f"{name}={layer}: choose one in 0 .. {teacher.num_layers}")
        if segment_sec <= 0:
            raise ValueError(f"segment_sec={segment_sec}: give a length above 0")
        self.teacher = teacher
        self.settings = {
            "feature_layer": feature_layer,
            "norm_layer": norm_layer,
            "norm_cut": norm_cut,
            "min_amplitude": min_amplitude,
            "segment_sec": segment_sec,
            "merge_threshold": merge_threshold,
        }
        self.sample_rate, self.frame_rate = teacher.sample_rate, teacher.frame_rate
        self.requires_grad_(False)
        self.eval()

    @property
    def config(self) -> dict[str, Any]:
        teacher = {"kind": self.teacher.kind, "config": self.teacher.config}
        return {"teacher": teacher, **self.settings}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """With fresh weights; the teacher's kind is looked up in :mod:`ssl_audio.hub`."""
        from ssl_audio import hub

        return cls(**{**config, "teacher": hub.build(config["teacher"])})

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode: labels must not depend on who asks for them."""
        return super().train(False)

    def num_frames(self, num_samples: Any) -> Any:
        return self.teacher.num_frames(num_samples)

    def encode(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tokens:
        """(B, S) float32 in [-1, 1] and valid samples (B,) to labels (B, T, 1)."""
        segments, frame_lengths = self.segment(waveforms, lengths)
        num_frames = self.num_frames(waveforms.shape[1])
        labels = np.full((len(segments), num_frames), IGNORE_CODE)
        for row, found, length in zip(labels, segments, frame_lengths.tolist(), strict=True):
            row[:length] = 0
            for number, (start, end) in enumerate(found):
                row[start:end] = 1 + number % 2
        codes = torch.from_numpy(labels)[:, :, None].to(waveforms.device)
        return Tokens(codes, frame_lengths)

    @torch.no_grad()
    def segment(
        self, waveforms: Tensor, lengths: Tensor | None = None
    ) -> tuple[list[np.ndarray], Tensor]:
        """Segments (N, 2) int64 [start, end) of each clip, and (B,) valid frames."""
        if lengths is None:
            lengths = full_lengths(waveforms)
        with full_float32():
            output = self.teacher(waveforms.float(), lengths)
        features, norms, waves = (
            x.float().cpu().numpy()
            for x in (
                output.hidden_states[self.settings["feature_layer"]],
                output.hidden_states[self.settings["norm_layer"]].float().norm(dim=-1),
                normalized(waveforms.float(), lengths, eps=1e-7).abs(),
            )
        )
        counts = output.lengths.tolist()
        return [
            self._segment_clip(features[i, :count], norms[i, :count], waves[i])
            for i, count in enumerate(counts)
        ], output.lengths

    def _segment_clip(
        self, features: np.ndarray, norms: np.ndarray, amplitude: np.ndarray
    ) -> np.ndarray:
        """Of frames (T, D), their norms (T,) and absolute samples."""
        if len(norms) == 0:
            return np.zeros((0, 2), np.int64)
        low, high = np.percentile(norms, PERCENTILES)
        speech = norms - low > self.settings["norm_cut"] * (high - low)
        hop = round(self.sample_rate / self.frame_rate)
        runs = [
            (start, end)
            for start, end in runs_of(speech).tolist()
            if end - start >= MIN_RUN_FRAMES
            and amplitude[start * hop : end * hop].mean() > self.settings["min_amplitude"]
        ]
        return segment_min_cut(
            np.where(speech[:, None], features, 0),
            np.array(runs, np.int64).reshape(-1, 2),
            self.settings["segment_sec"] * self.frame_rate,
            self.settings["merge_threshold"],
        )
