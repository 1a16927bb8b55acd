"""All layers of a source as SUPERB's heads want them: of one width, on one clock.

Axes: L layers, B clips, S samples, T frames, D channels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ssl_audio.batch import SAMPLE_RATE_HZ, full_lengths
from ssl_audio.probes.sources import FrameSource
from ssl_audio.probes.stream import forward_in_parts
from ssl_audio.probes.superb.featurizer import (
    match_frames,
    normalised,
    num_matched_frames,
    widened,
)


class LayerStack:
    """A ``FrameSource`` with what SUPERB does to layers before they are summed.

    All have ``dim`` channels: layers narrower than the widest are padded with zeros, so that
    encoders whose stacks differ in width (Zipformer) can be summed too.

    Args:
        source: an encoder's layers or a baseline.
        layer_norm: normalise every frame of every layer over its channels.
        match_lengths: as many frames as s3prl wants: floor((samples - 1) / stride) + 1, the last
            one repeated where the encoder gives fewer.
    """

    def __init__(
        self, source: FrameSource, layer_norm: bool = False, match_lengths: bool = False
    ) -> None:
        self.source, self.layer_norm, self.match_lengths = source, layer_norm, match_lengths
        self.frame_rate = source.frame_rate
        self.frame_offset_sec = source.frame_offset_sec
        one_sec = torch.zeros(1, SAMPLE_RATE_HZ)
        found, _ = source.layers(one_sec, full_lengths(one_sec))
        self.names, self.dim = list(found), max(x.shape[-1] for x in found.values())

    @property
    def key(self) -> str:
        norm = "-normalised" if self.layer_norm else "-stack"
        return f"{self.source.key}{norm}{'-matched' if self.match_lengths else ''}"

    @property
    def stride(self) -> int:
        """Samples from one frame to the next."""
        return round(SAMPLE_RATE_HZ / self.frame_rate)

    def layers(self, waveforms: Tensor, lengths: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """(B, S) and (B,) to layer name -> (B, T, D) float32, and (B,) valid frames."""
        layers, frames = self.source.layers(waveforms, lengths)
        layers = {name: self._prepared(x.float()) for name, x in layers.items()}
        if not self.match_lengths:
            return layers, frames
        wanted = num_matched_frames(lengths, self.stride)
        return {name: match_frames(x, frames, wanted) for name, x in layers.items()}, wanted

    def stacked(self, waveforms: Tensor, lengths: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """(rows, (L, B, T, D) float32, (B,) valid frames); halves where memory does not suffice."""
        for rows, layers, frames in forward_in_parts(self, waveforms, lengths):
            yield rows, torch.stack(list(layers.values())), frames

    def _prepared(self, states: Tensor) -> Tensor:
        return widened(normalised(states) if self.layer_norm else states, self.dim)
