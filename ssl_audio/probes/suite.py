"""What a probe suite is: clips, and tasks whose examples are labelled spans of those clips.

One notion covers the three kinds of task: a clip-level example is the span of the whole clip, a
segment example is the span between its two times, and a frame-level example is a span as long as
one frame. Extraction pools each span once, whatever number of tasks ask for it.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

SPLITS = ("train", "valid", "test")

Unit = Literal["clip", "segment", "frame", "boundary"]
Pooling = Literal["mean", "mean_std"]


@dataclass(frozen=True, slots=True)
class ProbeClip:
    """Audio to probe: ``source`` is a path or the bytes of an encoded file."""

    id: str
    source: str | bytes = field(repr=False)
    duration_sec: float


class Example(NamedTuple):
    """One labelled span of a clip, times in seconds; ``end_sec`` None is the clip's end."""

    clip: str
    label: str
    start_sec: float = 0.0
    end_sec: float | None = None


class Span(NamedTuple):
    """What extraction pools: frames of one clip whose centres lie in [start, end)."""

    clip: str
    start_sec: float
    end_sec: float | None
    pooling: Pooling


@dataclass(frozen=True, slots=True)
class ProbeTask:
    """A classification task with fixed splits.

    Attributes:
        name: e.g. "language".
        unit: "clip" and "segment" examples are pooled to mean and standard deviation over time
            (segments also tell their duration), "frame" examples are single frames, "boundary" ones
            all frames of a stretch (``boundary_task``).
        examples: by split name; train fits the head, valid chooses layer and penalty, test is read
            once.
    """

    name: str
    unit: Unit
    examples: Mapping[str, tuple[Example, ...]]

    @property
    def pooling(self) -> Pooling:
        return "mean" if self.unit in ("frame", "boundary") else "mean_std"

    def span(self, example: Example) -> Span:
        return Span(example.clip, example.start_sec, example.end_sec, self.pooling)

    @property
    def problem(self) -> str | None:
        """Why this task cannot be probed, or None."""
        for split in SPLITS:
            if not self.examples.get(split):
                return f"no examples in split {split!r}"
        classes = {example.label for example in self.examples["train"]}
        if len(classes) < 2:
            return f"split 'train' has only one class, {classes.pop()!r}"
        return None


@dataclass(frozen=True, slots=True)
class ProbeSuite:
    """Tasks over one set of clips.

    Attributes:
        left_out: one line for each file or task that is not usable.
        failed: names of those tasks.
    """

    name: str
    clips: Mapping[str, ProbeClip]
    tasks: tuple[ProbeTask, ...]
    left_out: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    def spans(self) -> dict[Span, int]:
        """Every distinct span of the tasks and its row, in a fixed order."""
        rows: dict[Span, int] = {}
        for task in self.tasks:
            for split in SPLITS:
                for example in task.examples[split]:
                    rows.setdefault(task.span(example), len(rows))
        return rows

    def fingerprint(self) -> str:
        """Hash of names, splits, labels, times and audio durations (not of the samples)."""
        digest = hashlib.sha256(self.name.encode())
        for task in self.tasks:
            digest.update(repr((task.name, task.unit)).encode())
            for split in SPLITS:
                digest.update(repr((split, [tuple(e) for e in task.examples[split]])).encode())
        used = sorted({span.clip for span in self.spans()})
        digest.update(repr([(c, round(self.clips[c].duration_sec, 4)) for c in used]).encode())
        return digest.hexdigest()[:16]

    def restricted(self, clips: Collection[str]) -> ProbeSuite:
        """The examples of these clips alone."""
        return self._with_examples(
            lambda task, split: [e for e in task.examples[split] if e.clip in clips]
        )

    def thinned(self, allowed: Callable[[int], int]) -> ProbeSuite:
        """Fewer clips in each split of each task, classes served in turn.

        Args:
            allowed: number of clips to what it becomes.
        """

        def kept(task: ProbeTask, split: str) -> list[Example]:
            examples = task.examples[split]
            count = allowed(len({example.clip for example in examples}))
            return limit_clips(examples, count, f"{task.name}/{split}")

        return self._with_examples(kept)

    def _with_examples(self, choose: Callable[[ProbeTask, str], Sequence[Example]]) -> ProbeSuite:
        tasks = (
            replace(task, examples={split: tuple(choose(task, split)) for split in SPLITS})
            for task in self.tasks
        )
        return replace(self, tasks=tuple(tasks))

    def only(self, names: Sequence[str] | None) -> ProbeSuite:
        """The suite with these tasks. ValueError for a name that it does not have."""
        if names is None:
            return self
        known = [task.name for task in self.tasks]
        for name in names:
            if name not in known:
                raise ValueError(
                    f"probe suite {self.name!r} has no task {name!r}; tasks: {', '.join(known)}"
                )
        return replace(self, tasks=tuple(task for task in self.tasks if task.name in names))


def limit_clips(examples: Sequence[Example], max_clips: int | None, seed: str) -> list[Example]:
    """At most ``max_clips`` clips with all their examples, classes served in turn.

    A clip counts for its rarest label. Deterministic in ``seed``; the order of what stays is kept.
    """
    by_clip: dict[str, list[str]] = defaultdict(list)
    for example in examples:
        by_clip[example.clip].append(example.label)
    if max_clips is None or len(by_clip) <= max_clips:
        return list(examples)
    frequency = Counter(example.label for example in examples)
    queues: dict[str, list[str]] = defaultdict(list)
    for clip, labels in by_clip.items():
        queues[min(labels, key=lambda label: (frequency[label], label))].append(clip)
    rng = random.Random(seed)
    for label in sorted(queues):
        rng.shuffle(queues[label])
    kept: set[str] = set()
    while len(kept) < max_clips:
        for label in sorted(queues):
            if queues[label] and len(kept) < max_clips:
                kept.add(queues[label].pop())
    return [example for example in examples if example.clip in kept]


def limit_examples(examples: Sequence[Example], maximum: int | None, seed: str) -> list[Example]:
    """A uniform draw of at most ``maximum`` examples, order kept, deterministic in ``seed``."""
    if maximum is None or len(examples) <= maximum:
        return list(examples)
    kept = sorted(random.Random(seed).sample(range(len(examples)), maximum))
    return [examples[i] for i in kept]


def most_frequent_labels(examples: Iterable[Example], count: int) -> set[str]:
    """The ``count`` most frequent labels, ties broken by name."""
    frequency = Counter(example.label for example in examples)
    return set(sorted(frequency, key=lambda label: (-frequency[label], label))[:count])
