"""SE and SS: masks on the spectrogram of noisy or mixed speech.

SUPERB-SG (arXiv:2203.06849), s3prl ec8064b ``downstream/{enhancement,separation}_stft``. Axes: B
clips, S sources, N samples, T frames, F bins.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from ssl_audio import audio
from ssl_audio.probes.metrics.separation import si_sdr_improvement
from ssl_audio.probes.superb.featurizer import match_frames
from ssl_audio.probes.superb.frame_task import Batch, FrameTask
from ssl_audio.probes.superb.layers import LayerStack
from ssl_audio.probes.superb.losses import mask_loss
from ssl_audio.probes.superb.mixtures import read_libri2mix, read_voicebank
from ssl_audio.probes.superb.recurrent import MaskEstimator
from ssl_audio.probes.superb.task import Recipe, Settings, TaskResult, Utterance

MAX_HOP = 0.625  # of the window: 20 ms, the frames of most encoders, under SUPERB's 32 ms


class Spectrogram:
    """Short-time Fourier transform on the encoder's clock, with silence behind the end.

    Behind the end every sample is covered by as many windows as inside, so that the inverse does
    not amplify what a mask leaves there.

    Args:
        window: samples, of a Hann window; also the size of the transform.
        hop: samples between frames.
    """

    def __init__(self, window: int, hop: int) -> None:
        self.window, self.hop = window, hop

    def __call__(self, waveforms: Tensor) -> Tensor:
        """(..., N) to (..., T, F) complex; frame t is centred at sample t * hop."""
        flat = functional.pad(waveforms, (0, self.window)).flatten(0, -2)
        spectra = torch.stft(
            flat, **self._arguments(flat), return_complex=True, pad_mode="constant"
        )
        return spectra.mT.unflatten(0, waveforms.shape[:-1])

    def inverse(self, spectra: Tensor, num_samples: int) -> Tensor:
        """(..., T, F) complex to (..., N)."""
        flat = spectra.flatten(0, -3).mT
        waveforms = torch.istft(flat, **self._arguments(flat), length=num_samples)
        return waveforms.unflatten(0, spectra.shape[:-2])

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Frames centred inside a clip."""
        return 1 + num_samples // self.hop

    def _arguments(self, like: Tensor) -> dict[str, Any]:
        window = torch.hann_window(self.window, device=like.device)
        return {"n_fft": self.window, "hop_length": self.hop, "window": window, "center": True}


class MaskTask(FrameTask):
    """One mask for each source, non-negative phase-sensitive targets.

    Masks lie on the encoder's frames, each repeated where these are too far apart for the window;
    where the encoder ends before the transform does, its last mask goes on.

    Args:
        folder: of the corpus.
        recipe: with options ``window`` and ``lstm``.
        seed: of the order.
    """

    spectrogram: Spectrogram  # while it runs
    repeats: int  # frames of the spectrogram for one of the layers
    memory: tuple[Batch, Tensor, Tensor] | None = None

    def __init__(self, folder: Path, recipe: Recipe, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        names = {"train": recipe.options["train"], "valid": "dev", "test": "test"}
        self.splits = {split: self.read_part(folder, name) for split, name in names.items()}

    @abstractmethod
    def read_part(self, folder: Path, part: str) -> list[Utterance]:
        """Mixtures whose targets are the paths of their sources."""

    @abstractmethod
    def judge(self, estimates: np.ndarray, sources: np.ndarray, mixture: np.ndarray) -> dict:
        """Scores by name of (S, N) estimates of the sources (S, N) of a mixture (N,)."""

    def run(self, layers: LayerStack, settings: Settings) -> TaskResult:
        bound = copy.copy(self)
        window = int(self.recipe.options["window"])
        bound.repeats = -(-layers.stride // round(MAX_HOP * window))
        if layers.stride % bound.repeats:
            raise ValueError(
                f"a frame every {layers.stride} samples does not divide into steps of equal length "
                f"for a window of {window}; choose another window for the task"
            )
        bound.spectrogram = Spectrogram(window, layers.stride // bound.repeats)
        return FrameTask.run(bound, layers, settings)

    def head(self, dim: int, frame_rate: float) -> nn.Module:
        options = self.recipe.options
        num_sources = len(self.splits["train"][0].target)
        bins = int(options["window"]) // 2 + 1
        return MaskEstimator(dim, bins, num_sources, **options["lstm"])

    def loss(self, head: nn.Module, outputs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
        mixture, sources = self._spectra(batch, outputs.device)
        outputs = outputs.repeat_interleave(self.repeats, dim=2)
        inside = self.spectrogram.num_frames(batch.lengths).to(lengths)
        valid = torch.minimum(lengths * self.repeats, inside)
        longest = int(valid.max())
        return mask_loss(
            outputs[:, :, :longest], mixture[:, :longest], sources[:, :, :longest], valid
        )

    def predict(self, outputs: Tensor, lengths: Tensor, batch: Batch) -> list[Any]:
        """Scores by name."""
        found = []
        outputs = outputs.repeat_interleave(self.repeats, dim=2)
        lengths = lengths * self.repeats
        waveforms = batch.waveforms.to(outputs.device)
        for row, utterance in enumerate(batch.utterances):
            size = int(batch.lengths[row])
            mixture = waveforms[row, :size]
            spectrum = self.spectrogram(mixture[None])[0]
            wanted = torch.full((outputs.shape[1],), len(spectrum), device=outputs.device)
            masks = match_frames(outputs[row], lengths[row].expand(len(wanted)), wanted)
            estimates = self.spectrogram.inverse(masks * spectrum, size).cpu().numpy()
            sources = _sources(utterance, size).numpy()
            found.append(self.judge(estimates, sources, mixture.cpu().numpy()))
        return found

    def counts(
        self, utterance: Utterance, prediction: Any, tuned: Any
    ) -> dict[str, tuple[float, float]]:
        return {name: (value, 1.0) for name, value in prediction.items()}

    def _spectra(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Of the mixtures and their sources; all learning rates of a step share them."""
        if self.memory is None or self.memory[0] is not batch:
            sizes = batch.lengths.tolist()
            rows = [_sources(u, n).T for u, n in zip(batch.utterances, sizes, strict=True)]
            sources = pad_sequence(rows, batch_first=True).mT.to(device)
            mixture = batch.waveforms[:, : sources.shape[2]].to(device)
            self.memory = batch, self.spectrogram(mixture), self.spectrogram(sources)
        return self.memory[1:]


class SourceSeparation(MaskTask):
    """Libri2Mix, 16 kHz, mode min, clean: improvement of the scale-invariant SDR."""

    metric = "si_sdri"
    scale = 1.0

    def read_part(self, folder: Path, part: str) -> list[Utterance]:
        return read_libri2mix(folder, part)

    def judge(self, estimates: np.ndarray, sources: np.ndarray, mixture: np.ndarray) -> dict:
        size = np.array([len(mixture)])
        gain = si_sdr_improvement(estimates[None], sources[None], mixture[None], size)
        return {"si_sdri": float(gain[0])}


class SpeechEnhancement(MaskTask):
    """VoiceBank-DEMAND: PESQ (wide band), which validation goes by, STOI, and SI-SDR gained."""

    metric = "pesq"
    scale = 1.0

    def __init__(self, folder: Path, recipe: Recipe, seed: int) -> None:
        super().__init__(folder, recipe, seed)
        _quality_measures()

    def read_part(self, folder: Path, part: str) -> list[Utterance]:
        return read_voicebank(folder, part)

    def judge(self, estimates: np.ndarray, sources: np.ndarray, mixture: np.ndarray) -> dict:
        pesq, stoi = _quality_measures()
        rate, size = audio.SAMPLE_RATE_HZ, np.array([len(mixture)])
        gain = si_sdr_improvement(estimates[None], sources[None], mixture[None], size)
        return {
            # -1 and NaN stand for "nothing heard"; 1 is the scale's lowest score.
            "pesq": max(1.0, float(pesq(rate, sources[0], estimates[0], "wb", on_error=1))),
            "stoi": float(stoi(sources[0], estimates[0], rate)),
            "si_sdri": float(gain[0]),
        }


def _quality_measures() -> tuple[Any, Any]:
    try:
        from pesq import pesq
        from pystoi import stoi
    except ImportError as error:
        raise ValueError(f"SE needs PESQ and STOI ({error}); install ssl-audio[superb]") from error
    return pesq, stoi


def _sources(utterance: Utterance, num_samples: int) -> Tensor:
    """(S, N) samples, cut or padded to the mixture's."""
    read = [audio.read(path)[:num_samples] for path in utterance.target]
    return torch.stack(
        [functional.pad(torch.from_numpy(x), (0, num_samples - len(x))) for x in read]
    )
