"""What can be probed: an encoder's layers, the same encoder untrained, log-mel energies.

Axes: B clips, S samples, T frames, D channels.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from ssl_audio.batch import SAMPLE_RATE_HZ
from ssl_audio.hub import content_hash
from ssl_audio.models.encoder import Encoder
from ssl_audio.probes.isolation import device_of, undisturbed

PATCHES = ("concat", "mean", "apart")
Patches = Literal["concat", "mean", "apart"]
LAST_LAYER = "last"  # selects EncoderOutput.frames
OUTPUT_LAYER = "output"  # its name among all layers where it is not the last hidden state


class FrameSource(Protocol):
    """Waveforms to named layers on one clock."""

    @property
    def frame_rate(self) -> float:
        """Frames per second, Hz."""

    @property
    def frame_offset_sec(self) -> float:
        """Frame i is centred at this plus (i + 0.5) / frame_rate, in seconds."""

    @property
    def key(self) -> str:
        """Names the features for caches: equal keys mean equal features."""

    def layers(self, waveforms: Tensor, lengths: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """(B, S) and (B,) to layer name -> (B, T, D), and (B,) valid frames."""


@runtime_checkable
class RecordingSource(Protocol):
    """A source whose frames of a window depend on the recording around it."""

    def within(self, pieces: Iterable[Tensor]) -> FrameSource:
        """The same for windows of one recording, pieces (S,) of which tell its norms over time."""


class EncoderLayers:
    """The hidden states of an encoder, "0" (the body's input) to "num_layers", and its output.

    The encoder is left as it was found, training or not.

    Args:
        encoder: frozen or in training.
        layers: names to keep, ``last`` is the encoder's output; None keeps all.
        autocast: run the encoder in this precision; None leaves it in its own.
        patches: of an encoder of spectrogram patches, the frame of a stretch of time: its patches
            side by side ("concat", F times as wide), or their mean over frequency; "apart" makes
            each patch a frame. A mean forgets which band a patch was in: pitch suffers most.

    Raises:
        ValueError: an encoder for another sample rate, unknown ``patches``, or a layer that the
            encoder does not have.
    """

    def __init__(
        self,
        encoder: Encoder,
        layers: Sequence[str] | None = None,
        autocast: torch.dtype | None = None,
        patches: Patches = "concat",
    ) -> None:
        if encoder.sample_rate != SAMPLE_RATE_HZ:
            raise ValueError(
                f"the encoder wants audio at {encoder.sample_rate} Hz, it is read at "
                f"{SAMPLE_RATE_HZ} Hz; use an encoder for {SAMPLE_RATE_HZ} Hz"
            )
        self.encoder, self.autocast = encoder, autocast
        if patches not in PATCHES:
            raise ValueError(f"patches={patches}: choose one of {', '.join(PATCHES)}")
        self.patches = patches
        self.merged = 1 if patches == "apart" else encoder.patches_per_row
        self.selected = None if layers is None else [str(layer) for layer in layers]
        known = [*map(str, range(encoder.num_layers + 1)), OUTPUT_LAYER, LAST_LAYER]
        for layer in self.selected or ():
            if layer not in known:
                raise ValueError(f"no layer {layer!r}; layers: {', '.join(known)}")
        self.norms: Any = None

    def within(self, pieces: Iterable[Tensor]) -> Self:
        """See ``RecordingSource``."""
        same = copy.copy(self)
        same.norms = self.encoder.recording_norms(pieces)
        return same

    @property
    def frame_rate(self) -> float:
        return self.encoder.frame_rate / self.merged

    @property
    def frame_offset_sec(self) -> float:
        """What a clip's frames do not cover, half of it: convolutions without padding lose as much
        at the beginning as at the end (35 ms in Zipformer, 2.5 ms in wav2vec 2.0)."""
        encoder, one_sec = self.encoder, self.encoder.sample_rate
        samples = torch.arange(one_sec, one_sec + math.ceil(one_sec / self.frame_rate))
        frames = encoder.num_frames(samples) // self.merged
        uncovered = samples / encoder.sample_rate - frames / self.frame_rate
        return max(0.0, float(uncovered.min()) / 2)

    @property
    def key(self) -> str:
        precision = "" if self.autocast is None else f"-{self.autocast}"
        merged = "" if self.merged == 1 else f"-{self.merged} patches {self.patches}"
        return f"{content_hash(self.encoder)}-{self.selected}{precision}{merged}"

    def layers(self, waveforms: Tensor, lengths: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        device = device_of(self.encoder)
        with undisturbed(self.encoder, self.autocast), self.encoder.normalizing(self.norms):
            out = self.encoder(waveforms.to(device), lengths.to(device))
        layers = {str(index): states for index, states in enumerate(out.hidden_states)}
        if out.frames is not out.hidden_states[-1]:
            layers[OUTPUT_LAYER] = out.frames
        if self.selected is not None:
            layers[LAST_LAYER] = out.frames
            layers.setdefault(OUTPUT_LAYER, out.frames)
            layers = {name: layers[name] for name in self.selected}
        if self.merged == 1:
            return layers, out.lengths
        rows = {name: x.unflatten(1, (-1, self.merged)) for name, x in layers.items()}
        if self.patches == "mean":
            joined = {name: x.mean(2, dtype=torch.float32) for name, x in rows.items()}
        else:
            joined = {name: x.flatten(2) for name, x in rows.items()}
        return joined, out.lengths // self.merged


class LogMelFrames:
    """Log-mel energies (Kaldi numerics): the baseline that any representation has to beat.

    Args:
        num_mel_bins: bands.
        device: where to compute.
    """

    layer = "log-mel"
    frame_offset_sec = 0.0

    def __init__(self, num_mel_bins: int = 80, device: torch.device | str = "cpu") -> None:
        from ssl_audio.frontends.kaldi import KaldiFbank

        self.fbank = KaldiFbank(num_mel_bins=num_mel_bins).to(device)
        self.frame_rate = float(self.fbank.frame_rate)
        self.key = f"log-mel-{num_mel_bins}"

    def layers(self, waveforms: Tensor, lengths: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        device = device_of(self.fbank)
        with undisturbed(self.fbank):
            features = self.fbank(waveforms.to(device), lengths.to(device))
        frames = self.fbank.num_frames(lengths)
        return {self.layer: features}, torch.as_tensor(frames)


def untrained_twin(encoder: Encoder, seed: int = 0) -> Encoder:
    """A freshly initialised encoder of the same class and config, on the same device.

    The draw depends on ``seed`` only, and the random state of the process stays as it was.
    """
    with undisturbed(encoder):
        torch.manual_seed(seed)
        twin = type(encoder).from_config(encoder.config)
    return twin.to(device_of(encoder)).eval().requires_grad_(False)
