"""All X-ARES tasks below a folder for an encoder and its baselines; restartable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ssl_audio.probes.embeddings import Extraction
from ssl_audio.probes.hear.protocol import over_folds
from ssl_audio.probes.metrics.xares import weighted_average
from ssl_audio.probes.scores import Record, Records
from ssl_audio.probes.sources import FrameSource
from ssl_audio.probes.task_suite import ALL, TaskSuite
from ssl_audio.probes.xares.data import Rows, joined, rows_of
from ssl_audio.probes.xares.heads import Scorer, linear_head, nearest_neighbours
from ssl_audio.probes.xares.task import PROTOCOLS, ProtocolName, XaresTask, read_task

HEADS = ("mlp", "knn")  # X-ARES' names; its "MLP" is linear
MENDED = (
    "mended against xares 0.1.3: k-NN normalises clips instead of channels, padding stays out of "
    "means, valid is never test, crops of a clip are averaged, an average names its tasks"
)
AS_PUBLISHED = (
    "as xares 0.1.3: k-NN over channels normalised across clips, test of folds and of some tasks "
    "chooses epochs, each crop counts as a clip; padding does stay out of means"
)


@dataclass
class XaresRun(TaskSuite[XaresTask, FrameSource]):
    """One folder of X-ARES' tars for each task; a row for each head.

    ``compat`` is what xares 0.1.3 does.
    """

    name = "xares"
    title = "X-ARES"
    version = 2
    protocols = PROTOCOLS

    protocol: ProtocolName = "ours"

    def place(self, name: str) -> str:
        return f"{name} (zenodo.org/records/{self.table[name]['zenodo']})"

    def open(self, name: str) -> XaresTask:
        return read_task(self.root, name, self.table[name], self.protocol)

    def identity(self, task: XaresTask) -> object:
        samples = {
            name: [(s.id, s.offset, s.size, s.label) for s in split]
            for name, split in task.splits.items()
        }
        return sorted(asdict(task.recipe).items()), samples

    def score(self, name: str, task: XaresTask, source: FrameSource) -> Records:
        title = "embeddings" if self.progress else ""
        extraction = Extraction(source, self.batch_sec, self.cache_dir, title)
        data: dict[str, Rows] = {}
        warnings: list[str] = []
        for split in task.splits:
            data[split], failures = rows_of(task, split, extraction)
            warnings += failures
        hop_ms = 1000 / source.frame_rate
        found: dict[str, dict[str, list[Record]]] = {head: {} for head in HEADS}
        for layer, columns in self.columns(source).items():
            parts = {split: replace(rows, x=rows.x[:, columns]) for split, rows in data.items()}
            folds = self._folds(task, parts, hop_ms)
            for head, records in folds.items():
                found[head][layer] = records
        return {
            f"{name} {head}": self._record(task, head, self.chosen(by_layer), warnings)
            for head, by_layer in found.items()
            if by_layer
        }

    def heading(self) -> str:
        return f"{super().heading()}; {MENDED if self.protocol == 'ours' else AS_PUBLISHED}"

    def summary(self, scores: Mapping[str, Records]) -> tuple[dict[str, Any], list[str]]:
        found = {source: _averages(records) for source, records in scores.items()}
        return found, _described(found)

    def _folds(
        self, task: XaresTask, data: Mapping[str, Rows], hop_ms: float
    ) -> dict[str, list[Record]]:
        """By head.

        Raises:
            ValueError: one class in train.
        """
        folds: dict[str, list[Record]] = {head: [] for head in HEADS}
        for rotation in task.rotations:
            train, valid, test = (joined([data[name] for name in names]) for names in rotation)
            if task.recipe.kind == "clip" and len(np.unique(train.targets.argmax(1))) < 2:
                label = task.labels[train.targets[0].argmax()]
                raise ValueError(f"split 'train' has only one class, {label!r}")
            folds["mlp"].append(self._mlp(task, train, valid, test, hop_ms))
            if task.recipe.knn:
                folds["knn"].append(self._knn(task, train, valid, test, hop_ms))
        return {head: records for head, records in folds.items() if records}

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
        """With only a layer to choose, the fold that validates is then one more to vote."""
        as_published = self.protocol == "compat"
        found: dict[str, Any] = {}
        if self.layer == ALL:
            answers = nearest_neighbours(train, valid, as_published=as_published)
            found["validation"] = self._scorer(task, valid, hop_ms)(answers)
        if task.recipe.folds and self.protocol == "ours":
            train = joined([train, valid])
        answers = nearest_neighbours(train, test, as_published=as_published)
        return found | self._scored(task, answers, test, hop_ms)

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
        self, task: XaresTask, head: str, chosen: Record, warnings: Sequence[str]
    ) -> Record:
        folds = chosen["folds"]
        values = [{"value": fold["test"]} for fold in folds]
        return {
            "head": head,
            "metric": task.recipe.metric,
            **over_folds(values, [fold["interval"] for fold in folds], "value"),
            "weight": task.recipe.weight,
            "pooling": "frames" if task.recipe.kind == "frames" else "mean",
            **chosen,
            "warnings": list(warnings),
        }


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
