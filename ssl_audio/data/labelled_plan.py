"""The order of labelled clips: a pure function of the seed and the micro-batch index."""

from __future__ import annotations

import numpy as np

from ssl_audio.data.plan import PlannedSample
from ssl_audio.rng import sample_generator


class LabelledPlan:
    """Endless micro-batches of a fixed number of clips, in the manner of ``BatchPlan``.

    An epoch has as many draws as there are clips. Uniform: every clip once. Balanced: independent
    draws, a clip's chance being the sum over its labels of one over the label's number of clips,
    so that every class is met equally often (AudioSet practice: PSLA, arXiv 2102.01243).

    Args:
        ids: (n,) segment ids.
        targets: (n, C), 1.0 where the clip has the label.
        batch_size: most clips in a micro-batch.
        balanced: draw by class.
        seed: >= 0.

    Raises:
        ValueError: nothing to draw, or a batch size below 1.
    """

    def __init__(
        self, ids: np.ndarray, targets: np.ndarray, *, batch_size: int, balanced: bool, seed: int
    ) -> None:
        if batch_size < 1 or not len(ids):
            raise ValueError(
                f"{len(ids)} clips in batches of data.batch_size={batch_size}: give the training "
                "split clips and a batch size of at least 1"
            )
        self.seed = seed
        self.ids = ids
        self.batches_per_epoch = -(-len(ids) // batch_size)
        self._chance: np.ndarray | None = None
        if balanced:
            per_class = targets.sum(0, dtype=np.float64)
            weight = (targets / np.maximum(per_class, 1.0)).sum(1)
            self._chance = weight / weight.sum()
        self._epoch = -1
        self._drawn = ids

    def batch(self, index: int) -> list[PlannedSample]:
        """Micro-batch ``index`` >= 0 of the run, counted over all ranks."""
        epoch, slot = divmod(index, self.batches_per_epoch)
        drawn, size = self._draws(epoch), len(self.ids)
        start, stop = (size * edge // self.batches_per_epoch for edge in (slot, slot + 1))
        return [PlannedSample(int(drawn[i]), epoch * size + i) for i in range(start, stop)]

    def replacement(self, sample: PlannedSample, attempt: int) -> int:
        """A clip to take instead of one that cannot be read; a function of the draw."""
        rng = sample_generator(self.seed, f"replacement {attempt}", sample.sample_index)
        return int(rng.choice(self.ids, p=self._chance))

    def _draws(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            rng = sample_generator(self.seed, "labelled epoch", epoch)
            size, balanced = len(self.ids), self._chance is not None
            self._drawn = rng.choice(self.ids, size, replace=balanced, p=self._chance)
            self._epoch = epoch
        return self._drawn
