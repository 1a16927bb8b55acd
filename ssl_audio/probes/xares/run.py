"""All X-ARES tasks below a folder for an encoder and its baselines; restartable."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_audio import __version__
from ssl_audio.files import write_json
from ssl_audio.probes.embeddings import Extraction
from ssl_audio.probes.hear.protocol import aggregate, interval_over_folds
from ssl_audio.probes.metrics.xares import weighted_average
from ssl_audio.probes.sources import LAST_LAYER, FrameSource
from ssl_audio.probes.xares.data import Rows, joined, rows_of
from ssl_audio.probes.xares.heads import Scorer, linear_head, nearest_neighbours
from ssl_audio.probes.xares.task import PROTOCOLS, ProtocolName, XaresTask, read_task

VERSION = 1  # raise it with any change that changes scores: stored results become stale
HEADS = ("mlp", "knn")  # X-ARES' names; its "MLP" is linear
MENDED = (
    "mended against xares 0.1.3: k-NN normalises clips instead of channels, padding stays out of "
    "means, valid is never test, crops of a clip are averaged, an average names its tasks"
)
AS_PUBLISHED = (
    "as xares 0.1.3: k-NN over channels normalised across clips, test of folds and of some tasks "
    "chooses epochs, each crop counts as a clip; padding does stay out of means"
)

Table = Mapping[str, Mapping[str, Any]]  # see configs/probe/xares.yaml


@dataclass(frozen=True, slots=True)
class XaresRun:
    """How tasks are run.

    Attributes:
        root: folder with one folder of tars for each task.
        protocol: "ours", or "compat" for what xares 0.1.3 does.
        cache_dir: keeps embeddings and the scores of finished tasks; None keeps none.
        seed: of the heads and of training's order; X-ARES' is 42.
        device: where the heads train.
        batch_sec: audio in a batch.
    """

    root: Path
    protocol: ProtocolName = "ours"
    cache_dir: Path | None = None
    seed: int = 42
    device: str = "cpu"
    batch_sec: float = 60.0

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {self.protocol!r}; use {' or '.join(PROTOCOLS)}")
        if not self.root.is_dir():
            raise ValueError(f"{self.root} does not exist; give the folder with X-ARES' tasks")

    def suite(
        self,
        sources: Mapping[str, FrameSource],
        table: Table,
        not_implemented: Mapping[str, str],
        tasks: Sequence[str] | None = None,
        layer: str = LAST_LAYER,
    ) -> dict[str, Any]:
        """Scores of every source on every task, a row for each head.

        Args:
            sources: by name, e.g. "trained" and "log-mel".
            table: a recipe for each task.
            not_implemented: tasks of X-ARES that are not there, and why.
            tasks: names to run; None runs all whose tars are there.
            layer: what the sources give, for the record.

        Returns:
            JSON-able: ``suite``, ``protocol``, ``scores`` (source to "TASK HEAD" to record),
            ``summary`` (source to head to weighted average), ``failed``, ``notes`` and
            ``warnings``; what failed is a warning, the other tasks go on.

        Raises:
            ValueError: a task asked for that the table does not have.
        """
        for name in tasks or ():
            if name not in table:
                why = not_implemented.get(name, f"tasks: {', '.join(table)}")
                raise ValueError(f"no X-ARES task {name!r}; {why}")
        warnings: list[str] = []
        scores: dict[str, dict[str, Any]] = {name: {} for name in sources}
        failed = []
        for task_name in tasks or table:
            try:
                task = read_task(self.root, task_name, table[task_name], self.protocol)
            except ValueError as error:
                warnings.append(f"task {task_name}: {error}")
                failed.append(task_name)
                continue
            for name, source in sources.items():
                try:
                    records = self.task(source, task, layer)
                except ValueError as error:
                    warnings.append(f"task {task_name}, {name}: {error}")
                    continue
                for head, record in records.items():
                    scores[name][f"{task_name} {head}"] = record
                    warnings += record["warnings"]
        summary = {name: _averages(records) for name, records in scores.items()}
        return {
            "suite": "xares",
            "protocol": self.protocol,
            "scores": scores,
            "summary": summary,
            "failed": failed,
            "notes": [
                f"protocol {self.protocol}, layer {layer}; "
                + (MENDED if self.protocol == "ours" else AS_PUBLISHED),
                *_described(summary),
                *(f"{name} is not implemented: {why}" for name, why in not_implemented.items()),
            ],
            "warnings": list(dict.fromkeys(warnings)),
        }

    def task(
        self, source: FrameSource, task: XaresTask, layer: str = LAST_LAYER
    ) -> dict[str, dict[str, Any]]:
        """The record of each head, from the cache if an equal run is stored there.

        Raises:
            ValueError: the data cannot be used.
        """
        path = self._record_path(source, task)
        if path is not None and path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        started = time.monotonic()
        extraction = Extraction(source, self.batch_sec, self.cache_dir)
        data: dict[str, Rows] = {}
        warnings: list[str] = []
        for split in task.splits:
            data[split], failures = rows_of(task, split, extraction)
            warnings += [f"task {task.name}: {line}" for line in failures]
        hop_ms = 1000 / source.frame_rate
        folds: dict[str, list[dict[str, Any]]] = {head: [] for head in HEADS}
        for rotation in task.rotations:
            train, valid, test = (joined([data[name] for name in names]) for names in rotation)
            folds["mlp"].append(self._mlp(task, train, valid, test, hop_ms))
            if task.recipe.knn:
                folds["knn"].append(self._knn(task, train, valid, test, hop_ms))
        seconds = round(time.monotonic() - started, 2)
        records = {
            head: {**self._record(task, head, source, layer, found, warnings), "seconds": seconds}
            for head, found in folds.items()
            if found
        }
        records = json.loads(json.dumps(records))  # equal to what a later run reads
        if path is not None:
            write_json(path, records)
        return records

    def _mlp(
        self, task: XaresTask, train: Rows, valid: Rows, test: Rows, hop_ms: float
    ) -> dict[str, Any]:
        on_valid = self._scorer(task, valid, hop_ms)
        answer, chosen = linear_head(
            train, valid, task.recipe, on_valid, seed=self.seed, device=self.device
        )
        return {"validation": chosen, **self._scored(task, answer(test), test, hop_ms)}

    def _knn(
        self, task: XaresTask, train: Rows, valid: Rows, test: Rows, hop_ms: float
    ) -> dict[str, Any]:
        """Without anything to choose, the fold that validates is one more to vote."""
        if task.recipe.folds and self.protocol == "ours":
            train = joined([train, valid])
        answers = nearest_neighbours(train, test, as_published=self.protocol == "compat")
        return self._scored(task, answers, test, hop_ms)

    def _scored(
        self, task: XaresTask, answers: np.ndarray, test: Rows, hop_ms: float
    ) -> dict[str, Any]:
        scorer = self._scorer(task, test, hop_ms)
        return {
            "test": scorer(answers),
            "interval": scorer.interval(answers, self.seed),
            "num_test": test.num_clips,
        }

    def _scorer(self, task: XaresTask, rows: Rows, hop_ms: float) -> Scorer:
        return Scorer(rows, task.recipe, hop_ms, per_crop=self.protocol == "compat")

    def _record(
        self,
        task: XaresTask,
        head: str,
        source: FrameSource,
        layer: str,
        folds: Sequence[Mapping[str, Any]],
        warnings: Sequence[str],
    ) -> dict[str, Any]:
        summary = aggregate([{"value": fold["test"]} for fold in folds])
        value = summary["value_mean"]
        intervals = [fold["interval"] for fold in folds]
        return {
            "suite": "xares",
            "task": task.name,
            "head": head,
            "protocol": self.protocol,
            "metric": task.recipe.metric,
            "value": value,
            "ci95": interval_over_folds(intervals, value, summary["value_std"]),
            "majority": None,
            "split": "test",
            "weight": task.recipe.weight,
            "layer": layer,
            "pooling": "frames" if task.recipe.kind == "frames" else "mean",
            "frame_rate_hz": source.frame_rate,
            "folds": list(folds),
            "encoder_hash": source.key,
            "versions": {"ssl_audio": __version__, "torch": torch.__version__},
            "warnings": list(warnings),
        }

    def _record_path(self, source: FrameSource, task: XaresTask) -> Path | None:
        if self.cache_dir is None:
            return None
        samples = {
            name: [(s.id, s.offset, s.size, s.label) for s in split]
            for name, split in task.splits.items()
        }
        recipe = sorted(asdict(task.recipe).items())
        settings = (VERSION, self.protocol, self.seed, source.key, task.name, recipe, samples)
        digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:24]
        return self.cache_dir / f"xares-{digest}.json"


def read_tables() -> tuple[Table, dict[str, str]]:
    """The recipes of ``configs/probe/xares.yaml``, and the tasks that are not implemented."""
    import yaml

    from ssl_audio.config import CONFIG_DIR

    config = yaml.safe_load((CONFIG_DIR / "probe" / "xares.yaml").read_text(encoding="utf-8"))
    return config["table"], config["not_implemented"]


def _averages(records: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By head: the average with X-ARES' weights and the tasks that it goes over."""
    averages: dict[str, dict[str, Any]] = {}
    for head in HEADS:
        found = [r for r in records.values() if r["head"] == head and not np.isnan(r["value"])]
        if found:
            values = np.array([record["value"] for record in found])
            weights = np.array([record["weight"] for record in found])
            averages[head] = {
                "weighted_average": weighted_average(values, weights),
                "tasks": [record["task"] for record in found],
            }
    return averages


def _described(summary: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    return [
        f"{name}, {head}: weighted average {100 * average['weighted_average']:.1f} over "
        f"{', '.join(average['tasks'])}"
        for name, averages in summary.items()
        for head, average in averages.items()
    ]
