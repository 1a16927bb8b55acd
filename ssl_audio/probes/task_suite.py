"""What HEAR, SUPERB and X-ARES share: a table of tasks below a folder, run for an encoder and its
baselines; restartable."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import yaml

from ssl_audio.models.encoder import Encoder
from ssl_audio.probes.runner import encoder_and_baselines
from ssl_audio.probes.scores import VERSIONS, Record, Records, digest_of, score_tasks, stored
from ssl_audio.probes.sources import LAST_LAYER, FrameSource, Patches, untrained_twin
from ssl_audio.probes.stream import BATCH_SEC, EXTRACTOR

CONCAT = "concat"
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "probe"

Task = TypeVar("Task")
Source = TypeVar("Source", bound=FrameSource)
Table = Mapping[str, Mapping[str, Any]]


@dataclass
class TaskSuite(ABC, Generic[Task, Source]):
    """A suite says which tasks there are, opens one, and scores a source of features on it.

    Attributes:
        root: folder with the data.
        protocol: "ours", or the habits of the suite's own kit.
        layer: "last", the number of a hidden state, or "concat" of all.
        patches: see ``EncoderLayers``.
        cache_dir: keeps features and the records of finished tasks; None keeps none.
        seed: of heads and orders.
        device: where heads train.
        batch_sec: padded seconds in a batch.
        progress: show bars.
        table: a row for each task; empty takes that of ``configs/probe/NAME.yaml``.
        not_implemented: tasks that are not there, and why.

    Raises:
        ValueError: an unknown protocol, or a folder that is not there.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[int]  # raised with any change of scores: stored records become stale
    protocols: ClassVar[tuple[str, ...]]
    every_layer: ClassVar[tuple[str, ...]] = (CONCAT,)  # names that stand for all hidden states

    root: Path
    protocol: str = "ours"
    layer: str = LAST_LAYER
    patches: Patches = "concat"
    cache_dir: Path | None = None
    seed: int = 42
    device: str = "cpu"
    batch_sec: float = BATCH_SEC
    progress: bool = False
    table: Table = field(default_factory=dict)
    not_implemented: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root, self.layer = Path(self.root), str(self.layer)
        self.cache_dir = None if self.cache_dir is None else Path(self.cache_dir)
        if self.protocol not in self.protocols:
            known = " or ".join(self.protocols)
            raise ValueError(f"unknown protocol {self.protocol!r}; use {known}")
        if not self.root.is_dir():
            raise ValueError(
                f"{self.root} does not exist; give the folder with {self.title}'s data"
            )
        if not self.table:
            config = yaml.safe_load((CONFIGS / f"{self.name}.yaml").read_text(encoding="utf-8"))
            self.table = config["table"]
            self.not_implemented = config.get("not_implemented", {})

    def probe(
        self, encoder: Encoder, tasks: Sequence[str] | None = None, untrained_seed: int = 0
    ) -> dict[str, Any]:
        """``run`` for the encoder, itself with fresh weights, and log-mel energies."""
        sources = encoder_and_baselines(
            encoder,
            None if self.layer in self.every_layer else [self.layer],
            self.patches,
            untrained_twin(encoder, untrained_seed),
        )
        return self.run(sources, tasks)

    def run(
        self, sources: Mapping[str, FrameSource], tasks: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Scores of every source on every task.

        Args:
            sources: by name, e.g. "trained" and "log-mel".
            tasks: names; None runs all.

        Returns:
            As ``score_tasks``, with ``suite``, ``suite_fingerprint`` (of data and recipes),
            ``protocol``, ``notes`` and what ``summary`` adds.

        Raises:
            ValueError: a task asked for that the suite does not have.
        """
        names = self._chosen(tasks)
        adapted = {name: self.adapted(source) for name, source in sources.items()}
        identities: dict[str, str] = {}

        def opened(name: str) -> Task:
            task = self.open(name)
            # Before it runs: a task may change while it does. Folders may move.
            identity = repr((name, self.identity(task)))
            identities[name] = identity.replace(f"'{self.root}/", "'")
            return task

        def scored(name: str, task: Task, source: str) -> Records:
            key = adapted[source].key
            facts = (self.version, EXTRACTOR, self.protocol, self.seed, key, identities[name])
            return stored(
                self.cache_dir, self.name, facts, lambda: self._records(name, task, adapted[source])
            )

        title = f"probing {self.title}" if self.progress else ""
        found = score_tasks(names, adapted, opened, scored, title)
        summary, lines = self.summary(found["scores"])
        missing = [f"{name} is not implemented: {x}" for name, x in self.not_implemented.items()]
        return {
            "suite": self.name,
            "suite_fingerprint": digest_of(sorted(identities.values()))[:16],
            "protocol": self.protocol,
            **found,
            "summary": summary,
            "notes": [f"protocol {self.protocol}, {self.heading()}", *lines, *missing],
        }

    def names(self) -> list[str]:
        """Of all tasks."""
        return list(self.table)

    @abstractmethod
    def open(self, name: str) -> Task:
        """Reads what the task asks.

        Raises:
            ValueError: data that are missing or cannot be used: one line with what belongs where.
        """

    @abstractmethod
    def identity(self, task: Task) -> object:
        """All of the task, its recipe and the suite's own settings that decides its scores."""

    @abstractmethod
    def score(self, name: str, task: Task, source: Source) -> Records:
        """Rows of the table with ``metric``, ``value``, ``ci95``, ``warnings`` and more.

        Raises:
            ValueError: the data cannot be used.
        """

    def adapted(self, source: FrameSource) -> Any:
        """The source as ``score`` wants it."""
        return source

    def heading(self) -> str:
        """How the tasks were run, beside the protocol."""
        return f"layer {self.layer}"

    def summary(self, scores: Mapping[str, Records]) -> tuple[dict[str, Any], list[str]]:
        """Numbers over tasks by source, and lines for people."""
        return {}, []

    def _chosen(self, tasks: Sequence[str] | None) -> Sequence[str]:
        names = self.names()
        for name in tasks or ():
            if name not in names:
                why = self.not_implemented.get(name, f"tasks: {', '.join(names)}")
                raise ValueError(f"no {self.title} task {name!r}; {why}")
        return tasks or names

    def _records(self, name: str, task: Task, source: Source) -> Records:
        started = time.monotonic()
        found = self.score(name, task, source)
        common: Record = {
            "suite": self.name,
            "task": name,
            "protocol": self.protocol,
            "majority": None,
            "split": "test",
            "layer": self.layer,
            "frame_rate_hz": source.frame_rate,
            "encoder_hash": source.key,
            "versions": VERSIONS,
            "seconds": round(time.monotonic() - started, 2),
        }
        return {row: common | record for row, record in found.items()}
