"""ASV: speaker verification on VoxCeleb1 with an x-vector (SUPERB, arXiv:2105.01051; s3prl).

Axes: B clips, T frames, D channels, S speakers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_audio import audio
from ssl_audio.probes.metrics.verification import equal_error_rate, min_detection_cost
from ssl_audio.probes.superb.frame_task import Batch, FrameTask, random_crop
from ssl_audio.probes.superb.heads import mean_std_pool
from ssl_audio.probes.superb.layers import LayerStack
from ssl_audio.probes.superb.task import (
    ProtocolName,
    Recipe,
    Settings,
    TaskResult,
    Utterance,
    needed,
)
from ssl_audio.probes.superb.utterance_tasks import voxceleb_files
from ssl_audio.rng import sample_generator

GAIN = np.float32(10 ** (-3 / 20))  # s3prl, downstream/sv_voxceleb1: gain -3 dB before trimming
SILENT_RMS, SILENT_SEC, RMS_SEC = 1e-3, 0.1, 0.02
CONTEXTS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))  # frames, dilation
LOST_FRAMES = sum((width - 1) * dilation for width, dilation in CONTEXTS)
INTERVAL_DRAWS = 200


class Trial(NamedTuple):
    """Whether two utterances have the same speaker."""

    same: bool
    first: str
    second: str


class XVector(nn.Module):
    """Projection, five time-delay layers, mean and deviation, two layers, cosine speaker weights.

    In training the outputs are those of the last layer, in evaluation those of the one before,
    which verification compares. Clips that are shorter than the context are padded to it.

    Args:
        dim: D.
        width: of all layers but the pooled one.
        pooled: channels before pooling.
        num_speakers: S.
    """

    def __init__(self, dim: int, width: int, pooled: int, num_speakers: int) -> None:
        super().__init__()
        self.projector = nn.Linear(dim, width)
        outputs = [width] * (len(CONTEXTS) - 1) + [pooled]
        self.layers = nn.ModuleList(
            nn.Conv1d(width, output, frames, dilation=dilation)
            for output, (frames, dilation) in zip(outputs, CONTEXTS, strict=True)
        )
        self.embedding = nn.Linear(2 * pooled, width)
        self.output = nn.Linear(width, width)
        self.speakers = nn.Parameter(nn.init.xavier_normal_(torch.empty(width, num_speakers)))

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) and (B,) to vectors (B, width) and their lengths, 1."""
        x = self.projector(frames).transpose(1, 2)
        x = functional.pad(x, (0, max(0, LOST_FRAMES + 1 - x.shape[2])))
        for layer in self.layers:
            x = torch.relu(layer(x))
        kept = (lengths - LOST_FRAMES).clamp(min=1)
        vectors = torch.relu(self.embedding(mean_std_pool(x.transpose(1, 2), kept)))
        if self.training:
            vectors = torch.relu(self.output(vectors))
        return vectors, torch.ones_like(lengths)


def am_softmax_loss(
    vectors: Tensor, speakers: Tensor, labels: Tensor, margin: float, scale: float
) -> Tensor:
    """Additive-margin softmax (Wang et al. 2018, arXiv:1801.05599, eq. 6), mean in nats.

    Args:
        vectors: (B, D).
        speakers: (D, S) weights.
        labels: (B,) int64.
        margin: taken off the cosine of the right speaker.
        scale: of all cosines.
    """
    cosines = functional.normalize(vectors, dim=1) @ functional.normalize(speakers, dim=0)
    margins = margin * functional.one_hot(labels, speakers.shape[1])
    return functional.cross_entropy(scale * (cosines - margins), labels)


class SpeakerVerification(FrameTask):
    """Equal error rate over VoxCeleb1's test trials.

    With protocol "ours", some speakers of dev are kept from training and their trials choose the
    checkpoint; with "compat" all train and the test trials choose it, as in s3prl.
    """

    metric = "eer"
    higher_is_better = False
    selects_on_test = True

    def __init__(self, folder: Path, recipe: Recipe, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        files = voxceleb_files(folder)
        self.trials = {"test": _read_trials(needed(folder / "veri_test.txt", "the trial list"))}
        wanted = {name for trial in self.trials["test"] for name in trial[1:]}
        absent = sorted(wanted - set(files))
        if absent:
            raise ValueError(
                f"{folder}: {absent[0]} of veri_test.txt is missing, {len(absent)} in all"
            )
        tested = {name.split("/")[0] for name in wanted}
        cut = float(recipe.options["max_train_sec"])
        self.by_speaker: dict[str, list[Utterance]] = defaultdict(list)
        for name, path in files.items():
            speaker = name.split("/")[0]
            if speaker not in tested:
                self.by_speaker[speaker].append(Utterance(name, path, speaker, max_sec=cut))
        self.test = [Utterance(name, files[name]) for name in sorted(wanted)]
        if len(self.by_speaker) < 4:
            raise ValueError(
                f"{folder} has {len(self.by_speaker)} speakers to train on; unpack dev"
            )

    def run(self, layers: LayerStack, settings: Settings) -> TaskResult:
        self.prepare(settings.protocol)
        return super().run(layers, settings)

    def prepare(self, protocol: ProtocolName) -> None:
        """Splits the speakers of dev into those that train and those that validate."""
        held_out: list[str] = []
        if protocol == "ours":
            rng = sample_generator(self.seed, "superb_asv_speakers", 0)
            count = min(int(self.recipe.options["valid_speakers"]), len(self.by_speaker) // 2)
            held_out = sorted(rng.choice(sorted(self.by_speaker), count, replace=False).tolist())
        training = sorted(set(self.by_speaker) - set(held_out))
        self.label = {speaker: index for index, speaker in enumerate(training)}
        valid = [utterance for speaker in held_out for utterance in self.by_speaker[speaker]]
        self.splits = {
            "train": [u for speaker in training for u in self.by_speaker[speaker]],
            "valid": valid,
            "test": self.test,
        }
        self.trials["valid"] = self._drawn_trials(valid)

    def _drawn_trials(self, utterances: Sequence[Utterance]) -> list[Trial]:
        """As many pairs of one speaker as of two."""
        rng = sample_generator(self.seed, "superb_asv_trials", 0)
        same: list[Trial] = []
        other: list[Trial] = []
        wanted = int(self.recipe.options["valid_trials"]) // 2
        for _ in range(100 * wanted if utterances else 0):
            a, b = (utterances[int(i)] for i in rng.integers(len(utterances), size=2))
            pairs = same if a.target == b.target else other
            if a is not b and len(pairs) < wanted:
                pairs.append(Trial(a.target == b.target, a.id, b.id))
            if len(same) == len(other) == wanted:
                break
        return same + other

    def head(self, dim: int, frame_rate: float) -> nn.Module:
        options = self.recipe.options
        return XVector(dim, int(options["width"]), int(options["pooled"]), len(self.label))

    def loss(self, head: nn.Module, outputs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
        assert isinstance(head, XVector)
        labels = torch.tensor([self.label[u.target] for u in batch.utterances]).to(outputs.device)
        margin, scale = float(self.recipe.options["margin"]), float(self.recipe.options["scale"])
        return am_softmax_loss(outputs, head.speakers, labels, margin, scale)

    def predict(self, outputs: Tensor, lengths: Tensor, batch: Batch) -> list[Any]:
        return list(functional.normalize(outputs, dim=1).cpu().numpy())

    def evaluate(
        self, split: str, predictions: Mapping[str, Any], tuned: Any
    ) -> tuple[dict[str, float], tuple[float, float]]:
        trials = [
            t for t in self.trials[split] if t.first in predictions and t.second in predictions
        ]
        if not trials:
            raise ValueError(f"no trial of split {split!r} has both of its files")
        labels = np.array([trial.same for trial in trials])
        scores = np.array([predictions[t.first] @ predictions[t.second] for t in trials])
        draws = np.random.default_rng(self.seed).integers(
            len(trials), size=(INTERVAL_DRAWS, len(trials))
        )
        drawn = [equal_error_rate(scores[rows], labels[rows])[0] for rows in draws]
        low, high = np.nanquantile(drawn, [0.025, 0.975])
        found = {
            "eer": equal_error_rate(scores, labels)[0],
            "min_dcf": min_detection_cost(scores, labels)[0],
        }
        return found, (float(low), float(high))

    def read(self, utterance: Utterance, rng: np.random.Generator | None) -> np.ndarray:
        samples = without_silence(GAIN * audio.read(utterance.path))
        shortest = float(self.recipe.options["min_train_sec"])
        if rng is None:
            return samples
        if len(samples) < shortest * audio.SAMPLE_RATE_HZ:
            raise audio.AudioError(f"{utterance.path}: less than {shortest} s without its silence")
        return random_crop(samples, utterance.max_sec, rng)


def without_silence(samples: np.ndarray) -> np.ndarray:
    """(S,) without stretches of at least 0.1 s whose level in 20 ms stays below -60 dB.

    What sox's ``silence 1 0.1 0.1% -1 0.1 0.1%`` does in s3prl, up to where exactly it cuts; all of
    a clip that is nothing but silence.
    """
    window = round(RMS_SEC * audio.SAMPLE_RATE_HZ)
    power = np.convolve(samples.astype(np.float64) ** 2, np.full(window, 1 / window), "same")
    quiet = power < SILENT_RMS**2
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
    kept = np.ones(len(samples), dtype=bool)
    for start, stop in edges.reshape(-1, 2):
        if stop - start >= SILENT_SEC * audio.SAMPLE_RATE_HZ:
            kept[start:stop] = False
    return samples[kept] if kept.any() else samples


def _read_trials(path: Path) -> list[Trial]:
    trials = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split()
        if len(fields) != 3 or fields[0] not in ("0", "1"):
            raise ValueError(f"{path}, line {number}: {line!r} is not 0 or 1 and two files")
        trials.append(Trial(fields[0] == "1", fields[1], fields[2]))
    if len({trial.same for trial in trials}) < 2:
        raise ValueError(f"{path} has trials of one kind only; take the list of VoxCeleb1's site")
    return trials
