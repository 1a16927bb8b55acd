"""Quality of discrete tokens: use of the codebook, agreement with labels, rates.

All entropies are plug-in estimates in nats of empirical distributions. Agreement with labels
follows HuBERT (arXiv:2106.07447, section III.C; fairseq ``measure_teacher_quality.py``, which adds
1e-8 inside logarithms); any frame label takes the place of phones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np

Values = Sequence[int] | Sequence[str] | np.ndarray  # one each frame

COVERED = 0.99  # of the frames, by the codes counted as effective


@dataclass(frozen=True, slots=True)
class CodebookUse:
    """How frames spread over the codes of one codebook.

    Attributes:
        num_frames: N; below about 10 K, utilisation is biased low.
        utilisation: share of codes that occur.
        effective_codes: smallest number of codes that covers 99 % of the frames.
        entropy_nats: biased low by about (K - 1) / (2 N).
        perplexity: exp(entropy), at most K.
        normalised_entropy: entropy / ln K; 1 is uniform, NaN for K = 1.
    """

    num_frames: int
    utilisation: float
    effective_codes: int
    entropy_nats: float
    perplexity: float
    normalised_entropy: float

    @property
    def entropy_bits(self) -> float:
        return self.entropy_nats / math.log(2)

    def to_dict(self) -> dict[str, float]:
        return {**asdict(self), "entropy_bits": self.entropy_bits}


@dataclass(frozen=True, slots=True)
class LabelAgreement:
    """Joint statistics of labels and codes over frames.

    Attributes:
        num_frames: frames that have both.
        label_purity: chance to name a frame's label from its code (phone purity); rises with K.
        code_purity: chance to name a frame's code from its label (cluster purity); falls with K.
        label_entropy, code_entropy, mutual_information: nats.
        label_run_frames, code_run_frames: mean length of runs of equal values, over all frames that
            were given.
    """

    num_frames: int
    label_purity: float
    code_purity: float
    label_entropy: float
    code_entropy: float
    mutual_information: float
    label_run_frames: float
    code_run_frames: float

    @property
    def pnmi(self) -> float:
        """Mutual information / label entropy: share of the label that the code tells."""
        return _ratio(self.mutual_information, self.label_entropy)

    @property
    def code_information(self) -> float:
        """Mutual information / code entropy: share of the code that the label tells."""
        return _ratio(self.mutual_information, self.code_entropy)

    def to_dict(self) -> dict[str, float]:
        shares = {"pnmi": self.pnmi, "code_information": self.code_information}
        return {**asdict(self), **shares}


def codebook_use(codes: np.ndarray, codebook_size: int) -> CodebookUse:
    """Statistics of (N,) codes of one codebook, padding removed; NaN without frames.

    Raises:
        ValueError: a code outside 0 .. K - 1.
    """
    codes = np.asarray(codes)
    if not len(codes):
        return CodebookUse(0, math.nan, 0, math.nan, math.nan, math.nan)
    if codes.min() < 0 or codes.max() >= codebook_size:
        raise ValueError(
            f"codes must lie in 0 .. {codebook_size - 1}, got {codes.min()} .. {codes.max()}"
        )
    counts = np.bincount(codes, minlength=codebook_size)
    nats = entropy(counts)
    covered = np.cumsum(np.sort(counts)[::-1])
    return CodebookUse(
        num_frames=len(codes),
        utilisation=float(np.mean(counts > 0)),
        effective_codes=int(np.searchsorted(covered, COVERED * len(codes))) + 1,
        entropy_nats=nats,
        perplexity=math.exp(nats),
        normalised_entropy=_ratio(nats, math.log(codebook_size)),
    )


def label_agreement(labels: Sequence[Values], codes: Sequence[Values]) -> LabelAgreement:
    """Joint statistics of frame labels and codes, both at the rate of the codes.

    Args:
        labels, codes: one sequence a clip; the two of a clip are cut to the shorter one.

    Raises:
        ValueError: different numbers of clips, or not a single common frame.
    """
    if len(labels) != len(codes):
        raise ValueError(f"labels of {len(labels)} clips for codes of {len(codes)} clips")
    flat = [
        pair
        for clip_labels, clip_codes in zip(labels, codes, strict=True)
        for pair in zip(clip_labels, clip_codes, strict=False)
    ]
    if not flat:
        raise ValueError("labels and codes have no frame in common")
    joint = contingency([a for a, _ in flat], [b for _, b in flat])
    label_nats, code_nats = entropy(joint.sum(1)), entropy(joint.sum(0))
    return LabelAgreement(
        num_frames=len(flat),
        label_purity=float(joint.max(0).sum() / len(flat)),
        code_purity=float(joint.max(1).sum() / len(flat)),
        label_entropy=label_nats,
        code_entropy=code_nats,
        mutual_information=max(0.0, label_nats + code_nats - entropy(joint.ravel())),
        label_run_frames=mean_run_frames(labels),
        code_run_frames=mean_run_frames(codes),
    )


def codebook_redundancy(codes: np.ndarray) -> np.ndarray:
    """(Q, Q) mutual information in nats between the codebooks of (N, Q) codes.

    The diagonal holds entropies; values off it are information that is coded twice.
    """
    num_codebooks = np.shape(codes)[1]
    table = np.zeros((num_codebooks, num_codebooks))
    for i in range(num_codebooks):
        for j in range(i, num_codebooks):
            joint = contingency(codes[:, i], codes[:, j])
            shared = entropy(joint.sum(0)) + entropy(joint.sum(1)) - entropy(joint.ravel())
            table[i, j] = table[j, i] = max(0.0, shared)
    return table


def joint_entropy(codes: np.ndarray) -> float:
    """Nats of the code tuples of (N, Q) codes; says something where K ** Q is far below N."""
    _, counts = np.unique(codes, axis=0, return_counts=True)
    return entropy(counts)


def conditional_entropies(sequences: Sequence[Values], max_order: int) -> list[float]:
    """Entropy in nats of a code given its ``n`` predecessors, for n = 0 .. ``max_order``.

    Plug-in estimates: with few frames, high orders fall towards 0 because n-grams do not repeat.
    NaN where no sequence is long enough.
    """
    rates = []
    for order in range(max_order + 1):
        # Contexts are counted where a successor exists, so both belong to one distribution.
        spans = [
            tuple(clip[i : i + order + 1]) for clip in sequences for i in range(len(clip) - order)
        ]
        whole, context = Counter(spans), Counter(span[:-1] for span in spans)
        given = entropy(np.array(list(context.values())))
        rates.append(entropy(np.array(list(whole.values()))) - given if spans else math.nan)
    return rates


def mean_run_frames(sequences: Sequence[Values]) -> float:
    """Frames divided by runs of equal values, runs ending with their clip; NaN without frames."""
    frames = sum(len(clip) for clip in sequences)
    runs = sum(1 + sum(a != b for a, b in pairwise(clip)) for clip in sequences if len(clip))
    return frames / runs if runs else math.nan


def token_rate(num_tokens: int, seconds: float) -> float:
    """Tokens per second; segments of variable length count once, codebooks count each."""
    return _ratio(num_tokens, seconds)


def bit_rate(tokens_per_sec: float, codebook_size: int) -> float:
    """Bits per second of a fixed-length code, timing of variable-length tokens not included."""
    return tokens_per_sec * math.log2(codebook_size)


def contingency(rows: Values, columns: Values) -> np.ndarray:
    """(values of rows, values of columns) counts of pairs."""
    _, i = np.unique(np.asarray(rows), return_inverse=True)
    _, j = np.unique(np.asarray(columns), return_inverse=True)
    width = int(j.max()) + 1
    return np.bincount(i * width + j, minlength=(int(i.max()) + 1) * width).reshape(-1, width)


def entropy(counts: np.ndarray) -> float:
    """Nats of the distribution of counts; 0 for no counts."""
    shares = counts[counts > 0] / max(1, counts.sum())
    return max(0.0, float(-np.sum(shares * np.log(shares))))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
