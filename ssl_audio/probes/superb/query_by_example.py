"""QbE: spoken queries found in documents by dynamic time warping; nothing is trained.

SUPERB (arXiv:2105.01051), s3prl ec8064b ``downstream/quesst14_dtw``. Axes: Q queries, M documents,
T frames, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from ssl_audio import audio
from ssl_audio.probes.metrics.query_by_example import (
    Documents,
    maximum_term_weighted_value,
    standardised_query_scores,
)
from ssl_audio.probes.recordings import Recording
from ssl_audio.probes.stream import Failure, iter_features
from ssl_audio.probes.superb.layers import LayerStack
from ssl_audio.probes.superb.quesst import QuerySplit, read_quesst
from ssl_audio.probes.superb.task import (
    FoldResult,
    Recipe,
    Settings,
    SuperbTask,
    TaskResult,
)

GAIN = np.float32(10 ** (-3 / 20))  # s3prl reads with gain -3 dB
INTERVAL_DRAWS = 200


class QueryByExample(SuperbTask):
    """QUESST 2014, English: the layer that is best on dev, its maximum term-weighted value on eval.

    As s3prl has it, the value is that of a system which finds nothing for the queries of other
    languages and in their documents: the organisers' scorer counts all, and SUPERB's table has
    values below 0.1.

    One layer at a time is kept in memory, so the encoder runs once for each layer.
    """

    metric = "mtwv"

    def __init__(self, folder: Path, recipe: Recipe, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        self.splits = {name: read_quesst(folder, name) for name in ("dev", "eval")}

    def run(self, layers: LayerStack, settings: Settings) -> TaskResult:
        failures: dict[str, None] = {}
        values = {}
        for name in layers.names:
            scored = self._scores(layers, name, self.splits["dev"], settings, failures)
            values[name] = self._value("dev", *scored)
        best = max(values, key=values.__getitem__)
        scores, relevant = self._scores(layers, best, self.splits["eval"], settings, failures)
        fold = FoldResult(
            {"mtwv": self._value("eval", scores, relevant)},
            self._interval(scores, relevant),
            chosen={"layer": best, "on": "dev"},
            grid=[{"layer": name, "validation": value} for name, value in values.items()],
            layer_weights={},
            num_train=0,
            num_test=len(scores),
        )
        return TaskResult([fold], list(failures))

    def _scores(
        self,
        layers: LayerStack,
        name: str,
        split: QuerySplit,
        settings: Settings,
        failures: dict[str, None],
    ) -> tuple[np.ndarray, np.ndarray]:
        """(Q, M) standardised scores and which documents hold which query."""
        source = _OneLayer(layers, name)
        queries = _frames(source, split.queries, settings.batch_sec, failures)
        documents = _frames(source, split.documents, settings.batch_sec, failures)
        if not queries or not documents:
            raise ValueError(f"no query or no document can be read; {next(iter(failures))}")
        together = np.concatenate([*queries.values(), *documents.values()])
        mean, deviation = together.mean(0), np.maximum(together.std(0, ddof=1), 1e-9)
        del together
        index = Documents([(frames - mean) / deviation for frames in documents.values()])
        rows = []
        for frames in queries.values():
            query = (frames - mean) / deviation
            rows.append(standardised_query_scores(query, index.scores(query)))
        matches = [set(split.matches.get(name, ())) for name in queries]
        relevant = [[name in found for name in documents] for found in matches]
        return np.stack(rows), np.array(relevant, dtype=bool)

    def _value(self, split: str, scores: np.ndarray, relevant: np.ndarray) -> float:
        return maximum_term_weighted_value(
            scores,
            relevant,
            false_alarm_weight=float(self.recipe.options["false_alarm_weight"]),
            num_queries=len(self.splits[split].matches),
            num_documents=self.splits[split].num_documents,
        )

    def _interval(self, scores: np.ndarray, relevant: np.ndarray) -> tuple[float, float]:
        """Percentiles over queries drawn anew."""
        rng = np.random.default_rng(self.seed)
        draws = rng.integers(len(scores), size=(INTERVAL_DRAWS, len(scores)))
        values = [self._value("eval", scores[rows], relevant[rows]) for rows in draws]
        low, high = np.nanquantile(values, [0.025, 0.975])
        return float(low), float(high)


class _OneLayer:
    """A ``FrameSource`` of one layer of another."""

    def __init__(self, layers: LayerStack, name: str) -> None:
        self.source, self.name = layers, name
        self.frame_rate = layers.frame_rate
        self.frame_offset_sec = layers.frame_offset_sec
        self.key = f"{layers.key}-{name}"

    def layers(self, waveforms: Tensor, lengths: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        layers, frames = self.source.layers(waveforms, lengths)
        return {self.name: layers[self.name]}, frames


def _frames(
    source: _OneLayer, paths: Sequence[Path], batch_sec: float, failures: dict[str, None]
) -> dict[str, np.ndarray]:
    """(T, D) by file name, in the order of the paths, without those that cannot be read."""
    recordings = []
    for path in paths:
        try:
            duration = audio.info(path).duration_sec
        except audio.AudioError as error:
            failures[str(error)] = None
            continue
        recordings.append(Recording(path.stem, duration, partial(_read, path)))
    found = {}
    for features in iter_features(source, recordings, pooling="none", batch_sec=batch_sec):
        if isinstance(features, Failure):
            failures[features.reason] = None
        else:
            found[features.id] = features.layers[source.name].numpy()
    return {path.stem: found[path.stem] for path in paths if path.stem in found}


def _read(path: Path, start_sec: float, duration_sec: float | None) -> np.ndarray:
    return audio.read(path, start_sec, duration_sec) * GAIN
