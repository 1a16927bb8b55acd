"""SPEAR's objective: codebook cross-entropy for two teachers (arXiv 2510.25955).

Axes: B clips, T student frames, N codebooks, K entries. A frame's loss is the mean over its
codebooks; everything else is a sum, to be divided once by the frame count over all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_audio.batch import AUDIO, IGNORE_CODE, SPEECH, valid_mask

# strategy -> teacher -> domains of the clips that predict this teacher's codes
STRATEGIES: dict[str, dict[str, tuple[int, ...]]] = {
    "joint": {"speech": (SPEECH, AUDIO), "audio": (SPEECH, AUDIO)},
    "disjoint": {"speech": (SPEECH,), "audio": (AUDIO,)},
    "asymmetric": {"speech": (SPEECH, AUDIO), "audio": (AUDIO,)},
}


@dataclass(frozen=True, slots=True)
class FrameSums:
    """Sums over a set of frames, for one teacher.

    ``loss`` () float32 nats; ``num_frames`` () int64 frames with a target; ``num_codes`` and
    ``num_correct`` (N,) int64 targets and right predictions per codebook.
    """

    loss: Tensor
    num_frames: Tensor
    num_codes: Tensor
    num_correct: Tensor


@dataclass(frozen=True, slots=True)
class TeacherLoss:
    """One teacher's unweighted sums, and ``clip_loss`` (B,) nats over all frames of each clip."""

    masked: FrameSums
    unmasked: FrameSums
    clip_loss: Tensor


@dataclass(frozen=True, slots=True)
class SpearLoss:
    """``total`` () float32, the weighted sum to back-propagate; ``num_frames`` () int64, frames
    that entered it, the divisor; ``teachers`` by name."""

    total: Tensor
    num_frames: Tensor
    teachers: dict[str, TeacherLoss]


def spear_loss(
    logits: Mapping[str, Tensor],
    codes: Mapping[str, Tensor],
    domains: Tensor,
    lengths: Tensor,
    *,
    mask: Tensor | None = None,
    strategy: str = "asymmetric",
    alpha: float = 0.5,
    audio_scale: float = 0.1,
    count_beyond_length: bool = False,
) -> SpearLoss:
    """Loss of one micro-batch: sum of S + audio_scale * A over the clips the strategy names.

    Masked frames weigh 2 * alpha and unmasked frames 2 * (1 - alpha), so alpha = 0.5 is the plain
    sum over all frames. A model with one teacher passes only that teacher (with "joint", and
    ``audio_scale=1`` for audio).

    Args:
        logits: "speech" and/or "audio" to (B, T, N, K).
        codes: the same keys to aligned targets (B, T, N), ``IGNORE_CODE`` where there is none.
        domains: (B,) ``SPEECH`` or ``AUDIO``.
        lengths: (B,) valid student frames.
        mask: (B, T) bool, frames whose input was masked; None counts every frame as unmasked with
            weight 1.
        strategy: "joint", "disjoint" or "asymmetric" (spec: section 2.5).
        alpha: weight of masked against unmasked frames, in [0, 1].
        audio_scale: lambda of the paper, weight of the audio teacher.
        count_beyond_length: let targets beyond ``lengths`` count, as the original does.

    Raises:
        ValueError: an unknown strategy or teacher, or ``alpha`` outside [0, 1].
    """
    domains_of = _domains_of(strategy, logits)
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha is {alpha}, choose one in [0, 1]")
    weight_masked, weight_unmasked = (2 * alpha, 2 * (1 - alpha)) if mask is not None else (1, 1)
    total = domains.new_zeros((), dtype=torch.float32)
    counted: Tensor | None = None
    teachers = {}
    for name, teacher_logits in logits.items():
        clips = torch.stack([domains == domain for domain in domains_of[name]]).any(0)
        targets = codes[name].masked_fill(~clips[:, None, None], IGNORE_CODE)
        if not count_beyond_length:
            valid = valid_mask(lengths, targets.shape[1])
            targets = targets.masked_fill(~valid[..., None], IGNORE_CODE)
        loss, has_target = teacher_loss(teacher_logits, targets, mask)
        scale = audio_scale if name == "audio" else 1.0
        total = total + scale * (
            weight_masked * loss.masked.loss + weight_unmasked * loss.unmasked.loss
        )
        counted = has_target if counted is None else counted | has_target
        teachers[name] = loss
    assert counted is not None, "logits of at least one teacher"
    return SpearLoss(total, counted.sum(), teachers)


def teacher_loss(
    logits: Tensor, targets: Tensor, mask: Tensor | None
) -> tuple[TeacherLoss, Tensor]:
    """Sums for ``logits`` (B, T, N, K) against ``targets`` (B, T, N), and which frames (B, T)
    have a target. A codebook without a target adds 0 to the mean over N."""
    frame_loss = _frame_loss(logits, targets)
    has_code = targets != IGNORE_CODE
    has_target = has_code.any(-1)
    with torch.no_grad():
        correct = (logits.argmax(-1) == targets) & has_code
    masked = torch.zeros_like(has_target) if mask is None else mask
    sums = [
        FrameSums(
            loss=(frame_loss * part).sum(),
            num_frames=(has_target & part).sum(),
            num_codes=(has_code & part[..., None]).sum((0, 1)),
            num_correct=(correct & part[..., None]).sum((0, 1)),
        )
        for part in (masked, ~masked)
    ]
    return TeacherLoss(sums[0], sums[1], frame_loss.detach().sum(1)), has_target


def _frame_loss(logits: Tensor, targets: Tensor) -> Tensor:
    losses = F.cross_entropy(
        logits.float().flatten(0, -2),
        targets.flatten(),
        ignore_index=IGNORE_CODE,
        reduction="none",
    )
    return losses.view(targets.shape).mean(-1)


def _domains_of(strategy: str, logits: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}, choose one of {', '.join(STRATEGIES)}")
    unknown = sorted(set(logits) - set(STRATEGIES[strategy]))
    if unknown or not logits:
        raise ValueError(
            f"teachers are 'speech' and/or 'audio', got {', '.join(unknown) or 'none'}"
        )
    return STRATEGIES[strategy]
