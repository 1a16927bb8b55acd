"""All SUPERB tasks below a folder for an encoder and its baselines; restartable."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ssl_audio import __version__
from ssl_audio.files import write_json
from ssl_audio.probes.hear.protocol import aggregate, interval_over_folds
from ssl_audio.probes.sources import FrameSource
from ssl_audio.probes.superb.asv import SpeakerVerification
from ssl_audio.probes.superb.diarization import SpeakerDiarization
from ssl_audio.probes.superb.layers import LayerStack
from ssl_audio.probes.superb.query_by_example import QueryByExample
from ssl_audio.probes.superb.separation import SourceSeparation, SpeechEnhancement
from ssl_audio.probes.superb.task import Recipe, Settings, SuperbTask, TaskResult
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

VERSION = 1  # raise it with any change that changes scores: stored results become stale
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

Table = Mapping[str, Mapping[str, Any]]  # see configs/probe/superb.yaml


@dataclass(frozen=True, slots=True)
class SuperbRun:
    """How tasks are run.

    Attributes:
        root: where the folders of the tasks lie; the table says which.
        settings: of all tasks.
        layer_norm: normalise every frame of a layer before layers are summed.
    """

    root: Path
    settings: Settings
    layer_norm: bool = False

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            raise ValueError(f"{self.root} does not exist; give the folder with SUPERB's corpora")

    def suite(
        self,
        sources: Mapping[str, FrameSource],
        table: Table,
        not_implemented: Mapping[str, str],
        tasks: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Scores of every source on every task.

        Args:
            sources: by name, e.g. "trained" and "log-mel"; all of their layers are used.
            table: a recipe for each task.
            not_implemented: tasks of SUPERB that are not there, and why.
            tasks: names to run; None runs all whose data are there.

        Returns:
            JSON-able: ``suite``, ``protocol``, ``scores`` (source to task to record), ``failed``
            (tasks without any score), ``notes`` and ``warnings``, which say why; the other tasks go
            on.

        Raises:
            ValueError: a task asked for that the table does not have.
        """
        for name in tasks or ():
            if name not in table:
                why = not_implemented.get(name, f"tasks: {', '.join(table)}")
                raise ValueError(f"no SUPERB task {name!r}; {why}")
        warnings: list[str] = []
        scores: dict[str, dict[str, Any]] = {name: {} for name in sources}
        matched = self.settings.protocol == "compat"
        stacks = {name: LayerStack(x, self.layer_norm, matched) for name, x in sources.items()}
        for task_name in tasks or table:
            try:
                recipe = Recipe.of(table[task_name])
                task = TASKS[task_name](self.root / recipe.folder, recipe, self.settings.seed)
            except ValueError as error:
                warnings.append(f"task {task_name}: {error}")
                continue
            # A task is its data and its recipe: what its constructor has read, before it runs.
            identity = repr((task_name, sorted(vars(task).items())))
            for name, layers in stacks.items():
                try:
                    record = self.task(task_name, task, recipe, layers, identity)
                except ValueError as error:
                    warnings.append(f"task {task_name}, {name}: {error}")
                    continue
                scores[name][task_name] = record
                warnings += [f"task {task_name}: {line}" for line in record["warnings"]]
        scored = {task_name for records in scores.values() for task_name in records}
        return {
            "suite": "superb",
            "protocol": self.settings.protocol,
            "scores": scores,
            "failed": [task_name for task_name in tasks or table if task_name not in scored],
            "notes": [
                f"protocol {self.settings.protocol}, learned sum of all layers",
                *(f"{name} is not implemented: {why}" for name, why in not_implemented.items()),
            ],
            "warnings": list(dict.fromkeys(warnings)),
        }

    def task(
        self, name: str, task: SuperbTask, recipe: Recipe, layers: LayerStack, identity: str
    ) -> dict[str, Any]:
        """The record of one task, from the cache if an equal run is stored there.

        Args:
            identity: of the task, part of the key.

        Raises:
            ValueError: the data cannot be used.
        """
        path = self._record_path(identity, layers)
        if path is not None and path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        started = time.monotonic()
        record = self._record(name, task, recipe, layers, task.run(layers, self.settings))
        record["seconds"] = round(time.monotonic() - started, 2)
        record = json.loads(json.dumps(record))  # equal to what a later run reads
        if path is not None:
            write_json(path, record)
        return record

    def _record(
        self, name: str, task: SuperbTask, recipe: Recipe, layers: LayerStack, result: TaskResult
    ) -> dict[str, Any]:
        summary = aggregate([fold.scores for fold in result.folds])
        value, std = summary[f"{task.metric}_mean"], summary[f"{task.metric}_std"]
        steps, _ = self.settings.length_of(recipe)
        return {
            "suite": "superb",
            "task": name,
            "protocol": self.settings.protocol,
            "metric": task.metric,
            "higher_is_better": task.higher_is_better,
            "scale": task.scale,
            "value": value,
            "ci95": interval_over_folds([fold.interval for fold in result.folds], value, std),
            "majority": None,
            "split": "test",
            "layer": "sum, normalised" if self.layer_norm else "sum",
            "steps": steps,
            "recipe_steps": recipe.steps,
            "frame_rate_hz": layers.frame_rate,
            "scores": summary,
            "folds": [asdict(fold) for fold in result.folds],
            "encoder_hash": layers.source.key,
            "versions": {"ssl_audio": __version__, "torch": torch.__version__},
            "warnings": _shortened(result.warnings),
        }

    def _record_path(self, identity: str, layers: LayerStack) -> Path | None:
        settings = self.settings
        if settings.cache_dir is None:
            return None
        parts = (VERSION, identity, settings.protocol, settings.seed, settings.max_steps)
        digest = hashlib.sha256(repr((*parts, layers.key)).encode()).hexdigest()
        return settings.cache_dir / f"superb-{digest[:24]}.json"


def read_tables() -> tuple[Table, dict[str, str]]:
    """The recipes of ``configs/probe/superb.yaml``, and the tasks that are not implemented."""
    import yaml

    from ssl_audio.config import CONFIG_DIR

    text = (CONFIG_DIR / "probe" / "superb.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    return config["table"], config["not_implemented"]


def _shortened(lines: Sequence[str]) -> list[str]:
    if len(lines) <= MAX_WARNINGS:
        return list(lines)
    return [*lines[:MAX_WARNINGS], f"{len(lines) - MAX_WARNINGS} more files were left out"]
