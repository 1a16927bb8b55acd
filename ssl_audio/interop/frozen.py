"""What the adapters share: waveforms in memory to the frozen frames of an encoder.

Axes: B clips, S samples, T frames, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_audio import hub
from ssl_audio.batch import SAMPLE_RATE_HZ
from ssl_audio.models.encoder import Encoder
from ssl_audio.probes.recordings import Recording
from ssl_audio.probes.sources import EncoderLayers, Patches
from ssl_audio.probes.stream import BATCH_SEC, Failure, iter_features


class FrozenEncoder(nn.Module):
    """An encoder that runs in evaluation mode without gradients, whatever mode a toolkit sets.

    Long clips go through it in overlapping windows (see ``probes.recordings.Windowing``); clips
    too short for a frame are padded with zeros up to their first one.

    Args:
        source: anything that ``load_encoder`` opens, or an encoder.
        layers: names, see ``EncoderLayers``; None takes all.
        patches: see ``EncoderLayers``.

    Raises:
        ValueError: a source that cannot be opened, a layer that is not there.
    """

    def __init__(
        self,
        source: str | Path | Encoder,
        layers: Sequence[str] | None,
        patches: Patches = "concat",
    ) -> None:
        super().__init__()
        self.encoder = source if isinstance(source, Encoder) else hub.load_encoder(source)
        self.source = EncoderLayers(self.encoder, layers, patches=patches)

    def layers(self, waveforms: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """(S,) waveforms at 16 kHz to layer name -> (T, D) each, on the device of the waveforms.

        Raises:
            ValueError: NaN or infinite values in the waveforms or in what comes out.
        """
        clips = [self._recording(number, wave) for number, wave in enumerate(waveforms)]
        found: list[dict[str, Tensor]] = [{}] * len(clips)
        for clip in iter_features(self.source, clips, pooling="none", batch_sec=BATCH_SEC):
            if isinstance(clip, Failure):
                raise ValueError(f"clip {clip.reason}")
            device = waveforms[clip.index].device
            found[clip.index] = {name: x.to(device) for name, x in clip.layers.items()}
        return found

    @cached_property
    def widths(self) -> dict[str, int]:
        """D of each layer."""
        one_sec = torch.zeros(1, SAMPLE_RATE_HZ)
        layers, _ = self.source.layers(one_sec, torch.tensor([SAMPLE_RATE_HZ]))
        return {name: x.shape[-1] for name, x in layers.items()}

    @cached_property
    def shortest(self) -> int:
        """Samples of the shortest clip that has a frame."""
        low, high = 0, SAMPLE_RATE_HZ
        while high - low > 1:
            middle = (low + high) // 2
            has_frame = int(self.encoder.num_frames(middle)) >= self.source.merged
            low, high = (low, middle) if has_frame else (middle, high)
        return high

    def _recording(self, number: int, wave: Tensor) -> Recording:
        samples = functional.pad(wave, (0, max(0, self.shortest - len(wave)))).float().cpu().numpy()

        def read(start_sec: float, duration_sec: float | None) -> np.ndarray:
            start = round(start_sec * SAMPLE_RATE_HZ)
            stop = None if duration_sec is None else start + round(duration_sec * SAMPLE_RATE_HZ)
            return samples[start:stop]

        return Recording(str(number), len(samples) / SAMPLE_RATE_HZ, read)
