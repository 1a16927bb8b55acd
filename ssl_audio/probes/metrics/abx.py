"""ABX: does a phone lie nearer to another token of itself than to one of another phone?

Machine ABX of the zero-resource challenges: Schatz et al., Interspeech 2013; libri-light
``eval/eval_ABX.py``. No training, no parameters; lower is better, 0.5 is chance.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from ssl_audio.probes.metrics.abx_libri import libriabx2_error
from ssl_audio.probes.metrics.dtw import Distance, PairDistances, Pooling

Speaker = Literal["within", "across"]
Context = Literal["within", "any"]
Group = tuple[str, str, str]  # context, speaker, phone
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class AbxItem:
    """One token of a phone: ``context`` names its neighbours."""

    file: str
    onset_sec: float
    offset_sec: float
    phone: str
    context: str
    speaker: str


@dataclass(frozen=True, slots=True)
class AbxSettings:
    """What is compared and how much of it.

    Attributes:
        distance: of two frames: angle / pi, or Euclidean; of vectors of norm 1 either way.
        pooling: DTW cost over path length, or distance of the means.
        speaker: X is of the speaker of A and B, or of another one.
        context: A, B and X share their neighbours, or any may be compared.
        max_group_items: items of one group (context, speaker, phone), drawn at random.
        max_x_speakers: other speakers for each group of A, drawn at random.
        seed: of the draws.
        backend: "numpy" is ours; "libriabx2" runs zerospeech-libriabx2, several times slower, to
            compare with numbers that it gave.
    """

    distance: Distance = "cosine"
    pooling: Pooling = "none"
    speaker: Speaker = "within"
    context: Context = "within"
    max_group_items: int = 10
    max_x_speakers: int = 5
    seed: int = 3459
    backend: Literal["numpy", "libriabx2"] = "numpy"


def abx_error(
    features: Mapping[str, np.ndarray],
    items: Sequence[AbxItem],
    *,
    frame_rate: float,
    settings: AbxSettings | None = None,
) -> float:
    """Share of triples with d(A, X) > d(B, X), ties half; A and X are one phone, B another.

    Averaged over contexts, then speakers, then pairs of phones.

    Args:
        features: (T, D) by file; frame i is centred at (i + 0.5) / ``frame_rate`` seconds.
        items: tokens of phones; those without a whole frame are left out.
        frame_rate: Hz.
        settings: default within speaker and context, cosine, DTW.

    Returns:
        The error, NaN if the items allow no triple.

    Raises:
        ValueError: an item of a file without features.
    """
    settings = settings or AbxSettings()
    if settings.backend == "libriabx2":
        return libriabx2_error(features, items, frame_rate=frame_rate, settings=settings)
    frames, groups = _read_items(features, items, frame_rate, settings)
    triples = list(_triples(groups, settings))
    if not triples:
        return math.nan
    blocks = [(triple.x, other) for triple in triples for other in (triple.a, triple.b)]
    distances = PairDistances(frames, settings.distance, settings.pooling, blocks)
    errors: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for triple in triples:
        to_a = distances.table(triple.x, triple.a)
        to_b = distances.table(triple.x, triple.b)
        error = _triple_error(to_a, to_b, same=triple.a is triple.x)
        errors[triple.phones][triple.speaker].append(error)
    pairs = [
        np.mean([np.mean(contexts) for contexts in speakers.values()])
        for speakers in errors.values()
    ]
    return float(np.mean(pairs))


@dataclass(frozen=True, slots=True)
class _Triple:
    """Indices of the items of the groups A, B and X, and where their error is counted."""

    phones: tuple[str, str]
    speaker: str
    a: tuple[int, ...]
    b: tuple[int, ...]
    x: tuple[int, ...]


def _read_items(
    features: Mapping[str, np.ndarray],
    items: Sequence[AbxItem],
    frame_rate: float,
    settings: AbxSettings,
) -> tuple[list[np.ndarray], dict[Group, tuple[int, ...]]]:
    """Frames of each usable item, and their indices by group."""
    frames: list[np.ndarray] = []
    groups: dict[Group, list[int]] = defaultdict(list)
    for item in items:
        if item.file not in features:
            raise ValueError(f"ABX item of file {item.file!r}, which has no features")
        clip = features[item.file]
        start = max(0, math.ceil(frame_rate * item.onset_sec - 0.5))
        stop = min(len(clip), math.floor(frame_rate * item.offset_sec - 0.5))
        if stop <= start:
            continue
        context = item.context if settings.context == "within" else ""
        groups[context, item.speaker, item.phone].append(len(frames))
        frames.append(clip[start:stop])
    rng = np.random.default_rng(settings.seed)
    return frames, {
        group: _draw(members, settings.max_group_items, rng)
        for group, members in sorted(groups.items())
    }


def _triples(groups: Mapping[Group, tuple[int, ...]], settings: AbxSettings) -> Iterator[_Triple]:
    rng = np.random.default_rng(settings.seed)
    phones_of: dict[tuple[str, str], list[str]] = defaultdict(list)
    speakers_of: dict[tuple[str, str], list[str]] = defaultdict(list)
    for context, speaker, phone in groups:
        phones_of[context, speaker].append(phone)
        speakers_of[context, phone].append(speaker)
    for (context, speaker, phone), a in groups.items():
        if settings.speaker == "within":
            sources = [a] if len(a) > 1 else []
        else:
            others = tuple(s for s in speakers_of[context, phone] if s != speaker)
            chosen = _draw(others, settings.max_x_speakers, rng)
            sources = [groups[context, other, phone] for other in chosen]
        for other_phone in phones_of[context, speaker]:
            if other_phone != phone:
                b = groups[context, speaker, other_phone]
                for x in sources:
                    yield _Triple((phone, other_phone), speaker, a, b, x)


def _draw(members: Sequence[T], maximum: int, rng: np.random.Generator) -> tuple[T, ...]:
    """At most ``maximum`` of the members, order kept."""
    if len(members) <= maximum:
        return tuple(members)
    return tuple(members[i] for i in sorted(rng.choice(len(members), maximum, replace=False)))


def _triple_error(to_a: np.ndarray, to_b: np.ndarray, *, same: bool) -> float:
    """Error over (X, A) and (X, B) distances; an item is not its own A if A and X are ``same``."""
    wrong = (to_a[:, :, None] > to_b[:, None]) + 0.5 * (to_a[:, :, None] == to_b[:, None])
    per_pair = wrong.mean(2)
    if not same:
        return float(per_pair.mean())
    n = len(per_pair)
    return float((per_pair.sum() - np.trace(per_pair)) / (n * (n - 1)))
