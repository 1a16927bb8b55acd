"""All SUPERB tasks below a folder for an encoder and its baselines; restartable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ssl_audio.probes.hear.protocol import over_folds
from ssl_audio.probes.scores import Records
from ssl_audio.probes.sources import FrameSource
from ssl_audio.probes.superb.asv import SpeakerVerification
from ssl_audio.probes.superb.diarization import SpeakerDiarization
from ssl_audio.probes.superb.layers import LayerStack
from ssl_audio.probes.superb.query_by_example import QueryByExample
from ssl_audio.probes.superb.separation import SourceSeparation, SpeechEnhancement
from ssl_audio.probes.superb.task import PROTOCOLS, ProtocolName, Recipe, Settings, SuperbTask
from ssl_audio.probes.superb.transcription import (
    OutOfDomainCharacters,
    OutOfDomainRecognition,
    PhonemeRecognition,
    SlotFilling,
    SpeechRecognition,
)
from ssl_audio.probes.superb.utterance_tasks import (
    EmotionRecognition,
    IntentClassification,
    KeywordSpotting,
    SpeakerIdentification,
)
from ssl_audio.probes.task_suite import CONCAT, TaskSuite

SUM = "sum"
MAX_WARNINGS = 20  # lines of one task

TASKS: Mapping[str, type[SuperbTask]] = {
    "pr": PhonemeRecognition,
    "asr": SpeechRecognition,
    "ks": KeywordSpotting,
    "qbe": QueryByExample,
    "ic": IntentClassification,
    "sf": SlotFilling,
    "er": EmotionRecognition,
    "sid": SpeakerIdentification,
    "asv": SpeakerVerification,
    "sd": SpeakerDiarization,
    "ood_asr_es": OutOfDomainRecognition,
    "ood_asr_ar": OutOfDomainRecognition,
    "ood_asr_zh": OutOfDomainCharacters,
    "ood_asr_sbcsae": OutOfDomainRecognition,
    "se": SpeechEnhancement,
    "ss": SourceSeparation,
}


@dataclass
class SuperbRun(TaskSuite[SuperbTask, LayerStack]):
    """SUPERB's corpora as they unpack; the table says which folder each task reads.

    Attributes:
        layer: "sum", learned, of all hidden states; "last" or a number takes one alone.
        layer_norm: normalise every frame of a layer before layers are summed.
        max_steps: caps every recipe's steps, for a quick look.
    """

    name = "superb"
    title = "SUPERB"
    version = 2
    protocols = PROTOCOLS
    every_layer = (SUM, "all")

    protocol: ProtocolName = "ours"
    layer: str = SUM
    layer_norm: bool = False
    max_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer == CONCAT:
            raise ValueError("SUPERB learns a sum of layers; use --layers sum, last or a number")
        self.settings = Settings(
            self.protocol,
            self.seed,
            self.device,
            self.cache_dir,
            self.batch_sec,
            self.max_steps,
            self.progress,
        )

    def folder(self, name: str) -> Path:
        return self.root / str(self.table[name]["folder"])

    def place(self, name: str) -> str:
        return f"{name} ({self.table[name]['folder']})"

    def open(self, name: str) -> SuperbTask:
        return TASKS[name](self.folder(name), Recipe.of(self.table[name]), self.seed)

    def identity(self, task: SuperbTask) -> object:
        return sorted(vars(task).items()), self.max_steps

    def adapted(self, source: FrameSource) -> LayerStack:
        return LayerStack(source, self.layer_norm, match_lengths=self.protocol == "compat")

    def score(self, name: str, task: SuperbTask, source: LayerStack) -> Records:
        result = task.run(source, self.settings)
        intervals = [fold.interval for fold in result.folds]
        record = {
            "metric": task.metric,
            "higher_is_better": task.higher_is_better,
            "scale": task.scale,
            **over_folds([fold.scores for fold in result.folds], intervals, task.metric),
            "layer": f"{self.layer}, normalised" if self.layer_norm else self.layer,
            "steps": self.settings.length_of(task.recipe)[0],
            "recipe_steps": task.recipe.steps,
            "folds": [asdict(fold) for fold in result.folds],
            "warnings": _shortened(result.warnings),
        }
        return {name: record}

    def heading(self) -> str:
        return "learned sum of all layers" if self.layer in self.every_layer else super().heading()


def _shortened(lines: Sequence[str]) -> list[str]:
    if len(lines) <= MAX_WARNINGS:
        return list(lines)
    return [*lines[:MAX_WARNINGS], f"{len(lines) - MAX_WARNINGS} more files were left out"]
