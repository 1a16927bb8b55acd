"""All HEAR tasks below a folder for an encoder and its baselines; restartable."""

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
from ssl_audio.batch import SAMPLE_RATE_HZ
from ssl_audio.files import write_json
from ssl_audio.models.encoder import Encoder
from ssl_audio.probes.hear.embeddings import Embedder
from ssl_audio.probes.hear.folder import METADATA_FILE, HearTask, read_task
from ssl_audio.probes.hear.leaderboard import TaskTable, described, folders, summarised
from ssl_audio.probes.hear.protocol import (
    PROTOCOLS,
    FoldScore,
    ProtocolName,
    aggregate,
    interval_over_folds,
    run_rotations,
)
from ssl_audio.probes.isolation import device_of
from ssl_audio.probes.runner import LOG_MEL, TRAINED, UNTRAINED
from ssl_audio.probes.sources import (
    LAST_LAYER,
    EncoderLayers,
    FrameSource,
    LogMelFrames,
    Patches,
    untrained_twin,
)

VERSION = 2  # raise it with any change that changes scores: stored results become stale
CONCAT = "concat"


@dataclass(frozen=True, slots=True)
class HearRun:
    """How tasks are run.

    Attributes:
        root: folder with the task folders.
        protocol: "ours" or "heareval" (see ``protocol.run_rotations``).
        cache_dir: keeps embeddings and the scores of finished tasks; None keeps none.
        seed: of weights and orders; the kit's is 42.
        device: where the shallow networks train.
        bf16: see ``mlp.MLPStack``.
        batch_sec: audio in a batch.
    """

    root: Path
    protocol: ProtocolName = "ours"
    cache_dir: Path | None = None
    seed: int = 42
    device: str = "cpu"
    bf16: bool = False
    batch_sec: float = 60.0

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {self.protocol!r}; use {' or '.join(PROTOCOLS)}")
        if not self.root.is_dir():
            raise ValueError(f"{self.root} does not exist; give the folder with HEAR's tasks")

    def suite(
        self,
        sources: Mapping[str, FrameSource],
        table: TaskTable,
        tasks: Sequence[str] | None = None,
        layer: str = LAST_LAYER,
    ) -> dict[str, Any]:
        """Scores of every source on every task.

        Args:
            sources: by name, e.g. "trained" and "log-mel".
            table: the tasks that are expected, with the end points of the s-score.
            tasks: names of folders to run; None runs all that are there.
            layer: what the sources give, for the record.

        Returns:
            JSON-able: ``suite``, ``protocol``, ``scores`` (source to task to record), ``summary``
            (source to means), ``notes`` and ``warnings``. What failed is a warning, the other tasks
            go on.

        Raises:
            ValueError: a task asked for that is not there, or no task at all.
        """
        present = sorted(path.parent.name for path in self.root.glob(f"*/{METADATA_FILE}"))
        absent = set(tasks or ()) - set(present)
        if absent or not present:
            what = f"task {min(absent)!r}" if absent else "task"
            raise ValueError(
                f"{self.root} has no {what}; a task is a folder with {METADATA_FILE}, there are: "
                f"{', '.join(present) or 'none'}"
            )
        warnings = [] if tasks else _missing(self.root, table, present)
        scores: dict[str, dict[str, Any]] = {name: {} for name in sources}
        for task_name in tasks or present:
            for name, source in sources.items():
                try:
                    record = self.task(source, task_name, layer)
                except ValueError as error:
                    warnings.append(f"task {task_name}, {name}: {error}")
                    continue
                scores[name][task_name] = record
                warnings += record["warnings"]
        values = {
            name: {task: record["value"] for task, record in records.items()}
            for name, records in scores.items()
        }
        summary = {name: summarised(found, table) for name, found in values.items()}
        return {
            "suite": "hear",
            "protocol": self.protocol,
            "scores": scores,
            "summary": summary,
            "notes": [f"protocol {self.protocol}, layer {layer}", *described(summary)],
            "warnings": list(dict.fromkeys(warnings)),
        }

    def task(self, source: FrameSource, name: str, layer: str = LAST_LAYER) -> dict[str, Any]:
        """The record of one task, from the cache if an equal run is stored there.

        Raises:
            ValueError: the folder or its data cannot be used.
        """
        path = self._record_path(source, name)
        if path is not None and path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        started = time.monotonic()
        task = read_task(self.root / name)
        embedder = Embedder(source, self.batch_sec, self.cache_dir)
        data, warnings = {}, _rate_note(task)
        for split in task.splits:
            data[split], failures = embedder.split(task, split)
            warnings += [f"task {name}: {line}" for line in failures]
        folds = run_rotations(
            task.problem,
            data,
            task.rotations,
            protocol=self.protocol,
            seed=self.seed,
            device=self.device,
            bf16=self.bf16,
        )
        record = self._record(task, source, layer, folds, warnings)
        record["seconds"] = round(time.monotonic() - started, 2)
        record = json.loads(json.dumps(record))  # equal to what a later run reads
        if path is not None:
            write_json(path, record)
        return record

    def _record(
        self,
        task: HearTask,
        source: FrameSource,
        layer: str,
        folds: Sequence[FoldScore],
        warnings: Sequence[str],
    ) -> dict[str, Any]:
        primary = task.problem.scores[0]
        summary = aggregate([fold.test for fold in folds])
        value = summary[f"{primary}_mean"]
        return {
            "suite": "hear",
            "task": task.name,
            "protocol": self.protocol,
            "metric": primary,
            "value": value,
            "ci95": interval_over_folds(
                [fold.interval for fold in folds], value, summary[f"{primary}_std"]
            ),
            "majority": None,
            "split": "test",
            "layer": layer,
            "pooling": "frames" if task.problem.is_event else "mean",
            "frame_rate_hz": source.frame_rate,
            "scores": summary,
            "folds": [asdict(fold) for fold in folds],
            "precision": "bf16" if self.bf16 else "float32",
            "encoder_hash": source.key,
            "versions": {"ssl_audio": __version__, "torch": torch.__version__},
            "warnings": list(warnings),
        }

    def _record_path(self, source: FrameSource, name: str) -> Path | None:
        if self.cache_dir is None:
            return None
        files = sorted((self.root / name).glob("*.json"))
        texts = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        settings = (VERSION, self.protocol, self.seed, self.bf16, source.key, name, texts)
        digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:24]
        return self.cache_dir / f"hear-{digest}.json"


def encoder_and_baselines(
    encoder: Encoder, layer: str = LAST_LAYER, seed: int = 0, patches: Patches = "concat"
) -> dict[str, FrameSource]:
    """The encoder, itself untrained, and log-mel energies.

    Args:
        encoder: to probe.
        layer: "last", the number of a hidden state, or "concat" of all.
        seed: of the untrained weights.
        patches: see ``EncoderLayers``.
    """
    layers = None if layer == CONCAT else [layer]
    return {
        TRAINED: EncoderLayers(encoder, layers, patches=patches),
        UNTRAINED: EncoderLayers(untrained_twin(encoder, seed), layers, patches=patches),
        LOG_MEL: LogMelFrames(device=device_of(encoder)),
    }


def _missing(root: Path, table: TaskTable, present: Sequence[str]) -> list[str]:
    return [
        f"task {name}: not in {root}; unpack hear-2021.0.6-{name}-48000.tar.gz there"
        for name in folders(table)
        if name not in present
    ]


def _rate_note(task: HearTask) -> list[str]:
    if task.audio_rate_hz == SAMPLE_RATE_HZ:
        return []
    return [
        f"task {task.name}: audio of {task.audio_rate_hz} Hz, resampled to {SAMPLE_RATE_HZ} Hz "
        "with soxr HQ"
    ]
