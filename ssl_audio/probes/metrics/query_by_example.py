"""Query by example: is a spoken query somewhere in a document? Subsequence DTW, no training.

Axes: N query frames, M document frames, D channels. Definition: SUPERB's QUESST 2014 task, s3prl
``downstream/quesst14_dtw/expert.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ssl_audio.probes.metrics.knn import unit_rows

MIN_QUERY_FRAMES = 5
DETECTED = 2.0  # deviations above the mean score of a query

QueryDistance = Literal["cosine", "cosine_exp"]


def query_scores(
    query: np.ndarray,
    documents: Sequence[np.ndarray],
    *,
    distance: QueryDistance = "cosine_exp",
    scale_rows: bool = True,
) -> np.ndarray:
    """(documents,) minus the cost per query frame of the query's best place; higher is nearer.

    Steps (query, document) are (1, 0), (1, 1) and (1, 2), start and end are free in the document.

    Args:
        query: (N, D).
        documents: (M_i, D) each, at least one frame.
        distance: cosine distance d of two frames, or exp(d) - 1.
        scale_rows: bring the distances of each query frame in a document to [0, 1].

    Raises:
        ValueError: a query or document without frames.
    """
    if not len(query) or not all(len(document) for document in documents):
        raise ValueError("query and documents need at least one frame each")
    if not documents:
        return np.empty(0)
    lengths = np.array([len(document) for document in documents])
    frames = unit_rows(np.concatenate(documents))
    distances = 1 - unit_rows(query) @ frames.T
    if distance == "cosine_exp":
        distances = np.expm1(distances)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    if scale_rows:
        low = np.minimum.reduceat(distances, starts, axis=1)
        span = np.maximum(np.maximum.reduceat(distances, starts, axis=1) - low, 1e-9)
        distances = (distances - low.repeat(lengths, 1)) / span.repeat(lengths, 1)
    first = np.zeros(len(frames), dtype=bool)
    first[starts] = True
    costs = _best_costs(distances, first)
    return -np.minimum.reduceat(costs, starts) / len(query)


def standardised_query_scores(query: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Scores of one query over all documents with mean 0 and deviation 1.

    A document counts as a detection above ``DETECTED``. Queries of fewer than ``MIN_QUERY_FRAMES``
    frames and constant scores give zeros.
    """
    if len(query) < MIN_QUERY_FRAMES:
        return np.zeros(len(scores))
    return (scores - scores.mean()) / max(float(scores.std()), 1e-9)


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
