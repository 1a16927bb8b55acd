"""Where speech begins: the decision boundary between two Gaussians over frame norms.

Sylber's stage 2 (``Thresholder`` of Berkeley-Speech-Group/sylber at 8287c90) follows the norms of
speech and of silence with running means and variances; the norm at which both are equally likely
separates them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, distributed, nn

from ssl_audio.tokenizers.syllables import EPS


def gaussian_boundary(
    signal_mean: Tensor, signal_var: Tensor, noise_mean: Tensor, noise_var: Tensor, eta: float = 1.0
) -> Tensor:
    """The value where signal is ``eta`` times as likely as noise; scalars in, a scalar out.

    With variances s and n and means S > N it is the larger root of
    (s - n) t² + 2 (n S - s N) t + s N² - n S² - s n (2 ln eta + ln s - ln n); equal variances leave
    a linear equation. Nothing is copied from the device. NaN where the densities never cross.
    """
    s, n = signal_var + EPS, noise_var + EPS
    a = s - n
    half_b = n * signal_mean - s * noise_mean
    c = s * noise_mean.square() - n * signal_mean.square()
    c = c - s * n * (2 * math.log(eta) + torch.log(s) - torch.log(n))
    root = torch.sqrt(half_b.square() - a * c)
    # The same root twice; the first form also holds for a = 0, the second where the sum cancels.
    return torch.where(half_b > 0, -c / (half_b + root), (root - half_b) / a)


def fit_norm_statistics(norms: Tensor, max_iters: int = 100) -> dict[str, float]:
    """Statistics that :class:`NormThreshold` can begin with, from norms nobody has labelled.

    The fixed point of its own update: the two groups are split where their squared deviations are
    smallest, then again and again at the boundary between the Gaussians of the groups.

    Args:
        norms: (F,) of frames of speech with its pauses.

    Returns:
        ``signal_mean``, ``signal_var``, ``noise_mean``, ``noise_var``.

    Raises:
        ValueError: norms that do not differ.
    """
    x = norms.flatten().double().cpu().sort().values
    sums, counts = x.cumsum(0), torch.arange(1, len(x) + 1)
    if not len(x) or not x[-1] - x[0] > 1e-3 * x[-1]:
        raise ValueError(
            "frames of speech and of silence have the same norm, so norms cannot tell them apart; "
            "set norm_threshold=0 to take every frame for speech"
        )
    # Between-group variance of every split; the means alone decide.
    low, high = sums / counts, (x.sum() - sums) / (len(x) - counts).clamp_min(1)
    split = int((counts * (len(x) - counts) * (high - low).square()).argmax()) + 1
    for _ in range(max_iters):
        noise, signal = x[:split], x[split:]
        moments = (signal.mean(), signal.var(correction=0), noise.mean(), noise.var(correction=0))
        boundary = gaussian_boundary(*moments).item()
        moved = split if math.isnan(boundary) else int(torch.searchsorted(x, boundary))
        if moved in (split, 0, len(x)):
            break
        split = moved
    names = ("signal_mean", "signal_var", "noise_mean", "noise_var")
    return dict(zip(names, map(float, moments), strict=True))


class NormThreshold(nn.Module):
    """Running statistics of the norms of speech and silence, and the threshold between them.

    Args:
        signal_mean, signal_var, noise_mean, noise_var: of the norms at the start; NaN until
            ``fit`` has found them.
        decay: of the running statistics; 1 - decay is the weight of an update.
        eta: likelihood ratio at the threshold.

    Raises:
        ValueError: an argument outside its range.
    """

    signal_mean: Tensor
    signal_var: Tensor
    noise_mean: Tensor
    noise_var: Tensor

    def __init__(
        self,
        signal_mean: float = math.nan,
        signal_var: float = math.nan,
        noise_mean: float = math.nan,
        noise_var: float = math.nan,
        *,
        decay: float,
        eta: float = 1.0,
    ) -> None:
        super().__init__()
        if min(signal_var, noise_var) < 0 or signal_mean <= noise_mean:
            raise ValueError(
                f"norms of signal {signal_mean} ± variance {signal_var} and of noise {noise_mean} "
                f"± variance {noise_var}: signal is the louder one and variances are not negative"
            )
        if not 0 <= decay <= 1 or eta <= 0:
            raise ValueError(f"decay={decay}, eta={eta}: decay lies in 0 .. 1, eta is above 0")
        self.decay, self.eta = decay, eta
        for name, value in {
            "signal_mean": signal_mean,
            "signal_var": signal_var,
            "noise_mean": noise_mean,
            "noise_var": noise_var,
        }.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))

    @property
    def is_fitted(self) -> bool:
        return not self.signal_mean.isnan()

    @torch.no_grad()
    def fit(self, statistics: Mapping[str, float]) -> None:
        """Begin with what ``fit_norm_statistics`` found."""
        for name, value in statistics.items():
            getattr(self, name).fill_(value)

    def forward(self) -> Tensor:
        """The threshold, a scalar on the module's device."""
        return gaussian_boundary(
            self.signal_mean, self.signal_var, self.noise_mean, self.noise_var, self.eta
        )

    def update(
        self, signal_norms: Tensor, signal: Tensor, noise_norms: Tensor, noise: Tensor
    ) -> None:
        """Move the statistics towards those of one batch, over all ranks.

        A class without a frame keeps its statistics (in the original they turn to NaN). Every rank
        has to call this equally often.

        Args:
            signal_norms: frame norms of any shape, those where the mask ``signal`` is True count.
            noise_norms: likewise with the mask ``noise``.
        """
        moments = torch.stack([_moments(signal_norms, signal), _moments(noise_norms, noise)])
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(moments)
        _follow(self.signal_mean, self.signal_var, moments[0], self.decay)
        _follow(self.noise_mean, self.noise_var, moments[1], self.decay)

    def extra_repr(self) -> str:
        return f"decay={self.decay}, eta={self.eta}"


@torch.no_grad()
def _moments(norms: Tensor, mask: Tensor) -> Tensor:
    """Count, sum and sum of squares under the mask, (3,) float64."""
    picked = torch.where(mask, norms.double(), 0)
    return torch.stack([mask.sum().double(), picked.sum(), picked.square().sum()])


@torch.no_grad()
def _follow(mean: Tensor, var: Tensor, moments: Tensor, decay: float) -> None:
    """First the mean, then the variance around the new mean, in place."""
    count = moments[0]
    batch_mean, batch_square = moments[1:] / count.clamp_min(1)
    new_mean = decay * mean + (1 - decay) * batch_mean
    spread = batch_square - 2 * new_mean * batch_mean + new_mean.square()
    new_var = decay * var + (1 - decay) * spread
    mean.copy_(torch.where(count > 0, new_mean, mean))
    var.copy_(torch.where(count > 0, new_var, var))
