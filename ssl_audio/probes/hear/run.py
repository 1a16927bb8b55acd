"""All HEAR tasks below a folder for an encoder and its baselines; restartable."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ssl_audio.batch import SAMPLE_RATE_HZ
from ssl_audio.probes.hear.embeddings import Embedder
from ssl_audio.probes.hear.folder import METADATA_FILE, HearTask, read_task
from ssl_audio.probes.hear.leaderboard import described, folders, summarised
from ssl_audio.probes.hear.protocol import PROTOCOLS, ProtocolName, over_folds, run_rotations
from ssl_audio.probes.scores import Record, Records
from ssl_audio.probes.sources import FrameSource
from ssl_audio.probes.task_suite import TaskSuite


@dataclass
class HearRun(TaskSuite[HearTask, FrameSource]):
    """HEAR's preprocessed task folders (see ``protocol.run_rotations``).

    Attributes:
        bf16: see ``mlp.MLPStack``.
    """

    name = "hear"
    title = "HEAR"
    version = 4
    protocols = PROTOCOLS

    protocol: ProtocolName = "ours"
    bf16: bool = False

    def names(self) -> list[str]:
        """Of the folders that are there, then of those of the table that are not."""
        present = sorted(path.parent.name for path in self.root.glob(f"*/{METADATA_FILE}"))
        return [*present, *(name for name in folders(self.table) if name not in present)]

    def open(self, name: str) -> HearTask:
        if not self.folder(name).is_dir():
            archive = f"hear-2021.0.6-{name}-48000.tar.gz"
            raise ValueError(f"not in {self.root}; unpack {archive} there")
        return read_task(self.folder(name))

    def identity(self, task: HearTask) -> object:
        files = sorted((self.root / task.name).glob("*.json"))
        texts = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        return texts, task.audio_rate_hz, self.bf16

    def score(self, name: str, task: HearTask, source: FrameSource) -> Records:
        title = "embeddings" if self.progress else ""
        embedder = Embedder(source, self.batch_sec, self.cache_dir, title)
        data, warnings = {}, _rate_note(task)
        for split in task.splits:
            data[split], failures = embedder.split(task, split)
            warnings += failures
        found: dict[str, list[Record]] = {}
        for layer, columns in self.columns(source).items():
            folds = run_rotations(
                task.problem,
                {split: replace(part, x=part.x[:, columns]) for split, part in data.items()},
                task.rotations,
                protocol=self.protocol,
                seed=self.seed,
                device=self.device,
                bf16=self.bf16,
            )
            found[layer] = [asdict(fold) for fold in folds]
        chosen = self.chosen(found)
        scores, intervals = zip(*((x["test"], x["interval"]) for x in chosen["folds"]), strict=True)
        metric = task.problem.scores[0]
        record = {
            "metric": metric,
            **over_folds(scores, intervals, metric),
            "pooling": "frames" if task.problem.is_event else "mean",
            **chosen,
            "precision": "bf16" if self.bf16 else "float32",
            "warnings": warnings,
        }
        return {name: record}

    def summary(self, scores: Mapping[str, Records]) -> tuple[dict[str, Any], list[str]]:
        found = {}
        for source, records in scores.items():
            values = {task: record["value"] for task, record in records.items()}
            found[source] = summarised(values, self.table)
        return found, described(found)


def _rate_note(task: HearTask) -> list[str]:
    if task.audio_rate_hz == SAMPLE_RATE_HZ:
        return []
    return [f"audio of {task.audio_rate_hz} Hz, resampled to {SAMPLE_RATE_HZ} Hz with soxr HQ"]
