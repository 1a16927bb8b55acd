"""Query by example: is a spoken query somewhere in a document? Subsequence DTW, no training.

Axes: N query frames, M document frames, D channels. Definition: SUPERB's QUESST 2014 task, s3prl
``downstream/quesst14_dtw/expert.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ssl_audio.probes.metrics.knn import unit_rows

MIN_QUERY_FRAMES = 5
DETECTED = 2.0  # deviations above the mean score of a query

QueryDistance = Literal["cosine", "cosine_exp"]


class Documents:
    """Documents side by side, to be searched for many queries.

    Args:
        documents: (M_i, D) each.

    Raises:
        ValueError: no document, or one without frames.
    """

    def __init__(self, documents: Sequence[np.ndarray]) -> None:
        self.lengths = np.array([len(document) for document in documents])
        if not self.lengths.size or not self.lengths.all():
            raise ValueError("documents need at least one frame each")
        self.frames = unit_rows(np.concatenate(documents))
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])

    def scores(
        self, query: np.ndarray, *, distance: QueryDistance = "cosine_exp", scale_rows: bool = True
    ) -> np.ndarray:
        """(documents,) minus the cost per query frame of the query's best place; higher is nearer.

        Steps (query, document) are (1, 0), (1, 1) and (1, 2), start and end are free in the
        document.

        Args:
            query: (N, D), at least one frame.
            distance: cosine distance d of two frames, or exp(d) - 1.
            scale_rows: bring the distances of each query frame in a document to [0, 1].

        Raises:
            ValueError: a query without frames.
        """
        if not len(query):
            raise ValueError("a query needs at least one frame")
        distances = 1 - unit_rows(query) @ self.frames.T
        if distance == "cosine_exp":
            distances = np.expm1(distances)
        if scale_rows:
            low = np.minimum.reduceat(distances, self.starts, axis=1)
            high = np.maximum.reduceat(distances, self.starts, axis=1)
            span = np.maximum(high - low, 1e-9)
            distances = (distances - low.repeat(self.lengths, 1)) / span.repeat(self.lengths, 1)
        first = np.zeros(len(self.frames), dtype=bool)
        first[self.starts] = True
        costs = _best_costs(distances, first)
        return -np.minimum.reduceat(costs, self.starts) / len(query)


def standardised_query_scores(query: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Scores of one query over all documents with mean 0 and deviation 1.

    A document counts as a detection above ``DETECTED``. Queries of fewer than ``MIN_QUERY_FRAMES``
    frames and constant scores give zeros.
    """
    if len(query) < MIN_QUERY_FRAMES:
        return np.zeros(len(scores))
    return (scores - scores.mean()) / max(float(scores.std()), 1e-9)


def maximum_term_weighted_value(
    scores: np.ndarray,
    relevant: np.ndarray,
    *,
    false_alarm_weight: float,
    num_queries: int | None = None,
    num_documents: int | None = None,
) -> float:
    """Highest value of 1 - mean over queries of (P_miss + weight P_false_alarm), at one threshold.

    Definition: QUESST 2014 (Anguera et al., MediaEval 2014). Never below 0, the value of finding
    nothing; NaN if no query has a relevant document.

    Args:
        scores: (Q, M) of queries in documents.
        relevant: (Q, M) bool; queries without a relevant document do not count.
        false_alarm_weight: relative cost times prior odds against a match.
        num_queries: of the whole collection, with a relevant document; those without scores here
            find nothing. None: all are here.
        num_documents: of the whole collection; those without scores here are found by no query.
            None: all are here.
    """
    counted = relevant.any(1)
    if not counted.any():
        return math.nan
    scores, relevant = scores[counted], relevant[counted]
    matches = relevant.sum(1, keepdims=True)
    others = np.maximum((num_documents or relevant.shape[1]) - matches, 1)
    gains = np.where(relevant, 1 / matches, -false_alarm_weight / others)
    gains /= num_queries or len(scores)
    order = np.argsort(-scores, axis=None, kind="stable")
    values = np.cumsum(gains.ravel()[order])
    ranked = scores.ravel()[order]
    at_threshold = np.append(ranked[1:] < ranked[:-1], True)  # equal scores are found together
    return max(0.0, float(values[at_threshold].max()))


def _best_costs(distances: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Cost of the best path to the last query frame for each column of (N, columns) distances.

    Documents stand side by side; no path enters a column from before its document, whose first
    column is marked in ``first``.
    """
    second = np.roll(first, 1) & ~first
    second[0] = False
    cost = distances[0]
    for row in distances[1:]:
        one_back, two_back = np.roll(cost, 1), np.roll(cost, 2)
        one_back[first] = np.inf
        two_back[first | second] = np.inf
        cost = row + np.minimum(cost, np.minimum(one_back, two_back))
    return cost
