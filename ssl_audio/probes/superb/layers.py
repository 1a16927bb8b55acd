"""All layers of a source as SUPERB's heads want them: of one width, on one clock.

Axes: L layers, B clips, S samples, T frames, D channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from ssl_audio.batch import SAMPLE_RATE_HZ
from ssl_audio.probes.sources import FrameSource
from ssl_audio.probes.stream import forward_in_parts
from ssl_audio.probes.superb.featurizer import match_frames, normalised, num_matched_frames


class LayerStack:
    """A ``FrameSource`` with what SUPERB does to layers before they are summed.

    Layers narrower than the widest are padded with zeros, so that encoders whose stacks differ in
    width (Zipformer) can be summed too.

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
        widths = {
            name: x.shape[-1] for name, x in self.layers(one_sec, _lengths(one_sec))[0].items()
        }
        self.names, self.dim = list(widths), max(widths.values())

    @property
    def key(self) -> str:
        norm = "-normalised" if self.layer_norm else ""
        return f"{self.source.key}{norm}{'-matched' if self.match_lengths else ''}"

    @property
    def stride(self) -> int:
        """Samples from one frame to the next."""
        return round(SAMPLE_RATE_HZ / self.frame_rate)

    def layers(self, waveforms: Tensor, lengths: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """(B, S) and (B,) to layer name -> (B, T, D of the layer), and (B,) valid frames."""
        layers, frames = self.source.layers(waveforms, lengths)
        if self.layer_norm:
            layers = {name: normalised(x.float()) for name, x in layers.items()}
        if not self.match_lengths:
            return layers, frames
        wanted = num_matched_frames(lengths, self.stride)
        return {name: match_frames(x, frames, wanted) for name, x in layers.items()}, wanted

    def stacked(self, waveforms: Tensor, lengths: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """(rows, (L, B, T, D) float32, (B,) valid frames); halves where memory does not suffice."""
        for rows, layers, frames in forward_in_parts(self, waveforms, lengths):
            yield rows, self.join(layers), frames

    def join(self, layers: Mapping[str, Tensor]) -> Tensor:
        """(..., D of the layer) each to (L, ..., D)."""
        wide = [functional.pad(x.float(), (0, self.dim - x.shape[-1])) for x in layers.values()]
        return torch.stack(wide)


def _lengths(waveforms: Tensor) -> Tensor:
    return torch.full((len(waveforms),), waveforms.shape[1], dtype=torch.int64)
