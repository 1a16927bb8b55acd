"""What HEAR, SUPERB and X-ARES share: a table of tasks below a folder, run for an encoder and its
baselines; restartable."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
import yaml

from ssl_audio.batch import SAMPLE_RATE_HZ, full_lengths
from ssl_audio.models.encoder import Encoder
from ssl_audio.probes.runner import encoder_and_baselines
from ssl_audio.probes.scores import VERSIONS, Record, Records, digest_of, score_tasks, stored
from ssl_audio.probes.sources import LAST_LAYER, FrameSource, Patches, untrained_twin
from ssl_audio.probes.stream import BATCH_SEC, EXTRACTOR

CONCAT, ALL = "concat", "all"
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
        layer: "last", the number of a hidden state, "concat" of all, or "all": one after the other,
            valid chooses.
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
    every_layer: ClassVar[tuple[str, ...]] = (CONCAT, ALL)  # names that stand for all hidden states

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
            tasks: names; None runs all whose data are there.

        Returns:
            As ``score_tasks``, with ``suite``, ``suite_fingerprint`` (of data and recipes),
            ``protocol``, ``absent`` (tasks without data), ``notes`` and what ``summary`` adds.

        Raises:
            ValueError: a task asked for that the suite does not have, or no data of any.
        """
        names = self._chosen(tasks)
        absent = [] if tasks else [name for name in self.names() if name not in names]
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
            settings = (self.protocol, self.seed, self.layer)
            facts = (self.version, EXTRACTOR, *settings, key, identities[name])
            return stored(
                self.cache_dir, self.name, facts, lambda: self._records(name, task, adapted[source])
            )

        title = f"probing {self.title}" if self.progress else ""
        found = score_tasks(names, adapted, opened, scored, title)
        summary, lines = self.summary(found["scores"])
        missing = [f"{name} is not implemented: {x}" for name, x in self.not_implemented.items()]
        if absent:
            lines = [*lines, f"not found under {self.root}: {', '.join(map(self.place, absent))}"]
        return {
            "suite": self.name,
            "suite_fingerprint": digest_of(sorted(identities.values()))[:16],
            "protocol": self.protocol,
            **found,
            "absent": absent,
            "summary": summary,
            "notes": [f"protocol {self.protocol}, {self.heading()}", *lines, *missing],
        }

    def names(self) -> list[str]:
        """Of all tasks."""
        return list(self.table)

    def present(self) -> list[str]:
        """Of tasks whose folder is there.

        Raises:
            ValueError: there are none.
        """
        found = [name for name in self.names() if self.folder(name).exists()]
        if not found:
            places = ", ".join(map(self.place, self.names()))
            raise ValueError(f"{self.root} has no task of {self.title}; expected there: {places}")
        return found

    def folder(self, name: str) -> Path:
        """Where the task's data belong."""
        return self.root / name

    def place(self, name: str) -> str:
        """The task, and where its data belong or come from if the name does not say so."""
        return name

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
        return "layer of each fold by valid" if self.layer == ALL else f"layer {self.layer}"

    def summary(self, scores: Mapping[str, Records]) -> tuple[dict[str, Any], list[str]]:
        """Numbers over tasks by source, and lines for people."""
        return {}, []

    def columns(self, source: FrameSource) -> dict[str, slice]:
        """Where each layer to score lies in the vectors of ``Extraction``, which joins them."""
        if self.layer != ALL:
            return {self.layer: slice(None)}
        one_sec = torch.zeros(1, SAMPLE_RATE_HZ)
        found, _ = source.layers(one_sec, full_lengths(one_sec))
        widths = [x.shape[-1] for x in found.values()]
        places = zip(accumulate(widths), widths, strict=True)
        return {name: slice(end - w, end) for name, (end, w) in zip(found, places, strict=True)}

    def chosen(self, found: Mapping[str, Sequence[Record]]) -> Record:
        """``folds``; where all layers compete, of each fold those of the layer best on valid.

        Args:
            found: records of folds by layer, with ``validation`` where layers compete.

        Returns:
            ``folds``, and of several layers ``layer`` (those chosen) and ``grid`` (layer to a list
            with its mean over folds on valid).
        """
        if self.layer != ALL:
            return {"folds": list(found[self.layer])}
        valid = np.array([[fold["validation"] for fold in folds] for folds in found.values()])
        names = list(found)
        best = [names[row] for row in np.where(np.isnan(valid), -np.inf, valid).argmax(0)]
        return {
            "folds": [
                found[name][i] | {"layer": name, "layers": dict(zip(names, column, strict=True))}
                for i, (name, column) in enumerate(zip(best, valid.T.tolist(), strict=True))
            ],
            "layer": ", ".join(dict.fromkeys(best)),
            "grid": {n: [mean] for n, mean in zip(names, valid.mean(1).tolist(), strict=True)},
        }

    def _chosen(self, tasks: Sequence[str] | None) -> Sequence[str]:
        names = self.names()
        for name in tasks or ():
            if name not in names:
                why = self.not_implemented.get(name, f"tasks: {', '.join(names)}")
                raise ValueError(f"no {self.title} task {name!r}; {why}")
        return tasks or self.present()

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
