"""ScaledAdam: Adam whose steps are relative to each tensor's size, which is learned as well.

Zipformer, arXiv 2310.11230, section 3.4 and appendix; icefall ``zipformer/optim.py``. Tensors of
equal shape are stacked and updated at once. t is the 0-based number of a step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

SIZE_PERIOD = 4  # steps between updates of a tensor's size
MAX_SIZE_STEP = 0.1  # largest relative change of a tensor's size in one update
CLIPPING_PERIOD = 100  # steps between clipping thresholds; also how many norms are remembered
FIRST_THRESHOLDS = (10, 20, 40)  # steps of the first, doubled thresholds
# A stack larger than this is no faster: on a CPU it leaves the cache, elsewhere it costs memory.
MAX_STACK_ELEMENTS = {"cpu": 2**20, "cuda": 2**25}


class ScaledAdam(Optimizer):
    """Adam with updates scaled by each parameter's root mean square, plus a step on that size.

    The state is one dict per parameter, with the step count in the group, and ``state_dict``
    resumes exactly. A missing gradient counts as zero, but a step in which all are missing changes
    nothing, so setting them to None skips it. Each parameter group is clipped by itself
    against a multiple of the median of its recent gradient norms, where a tensor's gradient counts
    times its size; from the second step on, a group with a non-finite norm gets zero gradients.

    Args:
        params: float32 parameters, or groups of them.
        lr: base learning rate; 0.045 with Eden in SPEAR.
        betas: decay of the momentum and of the squared gradient.
        eps: added to the root of the squared gradient.
        clipping_scale: multiple of the median norm above which gradients are scaled down; None
            for no clipping.
        scalar_lr_scale: factor on ``lr`` for one-element tensors and for sizes.
        param_rms_limits: the size below which steps shrink no further, and the one at which sizes
            stop growing.
        scalar_max: one-element tensors stay within +-``scalar_max``.

    Attributes:
        grad_norm: () norm of the latest step over all clipped groups, before clipping; None before
            the second step or without clipping.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.045,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        clipping_scale: float | None = 2.0,
        scalar_lr_scale: float = 0.1,
        param_rms_limits: tuple[float, float] = (1e-5, 3.0),
        scalar_max: float = 10.0,
    ) -> None:
        if lr < 0 or eps <= 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"ScaledAdam needs lr >= 0, eps > 0 and betas in [0, 1); got {lr}, {eps}, {betas}"
            )
        if clipping_scale is not None and clipping_scale <= 0:
            raise ValueError(f"clipping_scale is {clipping_scale}, choose > 0, or null for none")
        self.grad_norm: Tensor | None = None
        self._stacks: list[list[_Stack]] | None = None
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "clipping_scale": clipping_scale,
            "scalar_lr_scale": scalar_lr_scale,
            "param_rms_limits": tuple(param_rms_limits),
            "scalar_max": scalar_max,
            "num_steps": 0,
        }
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update; the value of ``closure`` (loss and gradients anew) is returned.

        Raises:
            RuntimeError: at least half of the recent gradient norms are not finite.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if all(p.grad is None for group in self.param_groups for p in group["params"]):
            return loss
        if self._stacks is None:
            self._stacks = [_stacks_of(group["params"], self.state) for group in self.param_groups]
        norms = []
        for group, stacks in zip(self.param_groups, self._stacks, strict=True):
            factor = None
            if group["clipping_scale"] is not None and group["num_steps"] > 0:
                norm = torch.stack(
                    [stack.norm(group["scalar_lr_scale"]) for stack in stacks]
                ).norm()
                factor = self._clipping_factor(group, norm)
                norms.append(norm)
            for stack in stacks:
                stack.update(group, factor)
            group["num_steps"] += 1
        self.grad_norm = torch.stack(norms).norm() if norms else None
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._stacks = None  # the stacks viewed the old state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self._stacks = None

    def _clipping_factor(self, group: dict[str, Any], norm: Tensor) -> Tensor:
        """() factor for the gradients of a group whose norm is ``norm``; 0 if it is not finite."""
        state = self.state[group["params"][0]]
        if "clipping_norms" not in state:
            state["clipping_norms"] = norm.new_zeros(CLIPPING_PERIOD)
            state["clipping_threshold"] = norm.new_full((), torch.inf)
        t, ring = group["num_steps"], state["clipping_norms"]
        ring[t % CLIPPING_PERIOD] = norm
        if t in FIRST_THRESHOLDS:
            threshold = 2.0 * group["clipping_scale"] * _median(ring[1 : t + 1])
            state["clipping_threshold"].copy_(threshold)
        elif t % CLIPPING_PERIOD == 0:
            state["clipping_threshold"].copy_(group["clipping_scale"] * _median(ring))
        factor = (state["clipping_threshold"] / (norm + 1e-20)).clamp(max=1.0)
        return torch.where(norm.isfinite(), factor, 0.0)


class _Stack:
    """Parameters of one shape; the optimizer's state of each is a view of a stacked tensor."""

    def __init__(self, params: list[Tensor], state: defaultdict[Tensor, Any]) -> None:
        self.params = params
        self.is_scalar = params[0].numel() == 1
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(
            ("momentum", "squared_grad"), params[0].shape
        )
        if not self.is_scalar:
            shapes |= {"rms": (), "size_grads": (SIZE_PERIOD,), "size_squared_grad": ()}
        self.state: dict[str, Tensor] = {}
        for name, shape in shapes.items():
            zeros = params[0].new_zeros(shape)
            stacked = torch.stack([state[param].get(name, zeros) for param in params])
            self.state[name] = stacked
            for param, view in zip(params, stacked.unbind(), strict=True):
                state[param][name] = view

    def norm(self, scalar_scale: float) -> Tensor:
        """() norm of the gradients, each weighted by its tensor's size."""
        norms = torch.stack(torch._foreach_norm(self._gradients()))
        return (norms * (scalar_scale if self.is_scalar else self.state["rms"])).norm()

    def update(self, group: dict[str, Any], clipping_factor: Tensor | None) -> None:
        momentum, t = self.state["momentum"], group["num_steps"]
        grad = torch.stack(self._gradients())
        if clipping_factor is not None:
            # Filled as well, since zero times a non-finite gradient is not zero.
            grad.mul_(clipping_factor).masked_fill_(clipping_factor == 0, 0.0)
        if self.is_scalar:
            delta = self._adam_direction(grad, group, group["scalar_lr_scale"])
        else:
            param = torch.stack(self.params) if len(self.params) > 1 else self.params[0][None]
            self._observe_size(param, grad, t)
            rms = self.state["rms"].clamp(min=group["param_rms_limits"][0])
            delta = self._adam_direction(grad, group, _expand(rms, grad))
            if t % SIZE_PERIOD == SIZE_PERIOD - 1:
                delta.addcmul_(param, _expand(self._size_step(group), param))
        momentum.lerp_(delta, 1.0 - group["betas"][0])
        torch._foreach_add_(self.params, list(momentum.unbind()))
        if self.is_scalar:
            torch._foreach_clamp_min_(self.params, -group["scalar_max"])
            torch._foreach_clamp_max_(self.params, group["scalar_max"])

    def _gradients(self) -> list[Tensor]:
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]

    def _adam_direction(self, grad: Tensor, group: dict[str, Any], scale: Tensor | float) -> Tensor:
        """``scale * -lr * grad / (root of the unbiased squared gradient + eps)``."""
        beta, squared = group["betas"][1], self.state["squared_grad"]
        squared.mul_(beta).addcmul_(grad, grad, value=1.0 - beta)
        correction = 1.0 - beta ** (group["num_steps"] + 1)
        root = correction**0.5 if correction < 0.99 else 1.0
        denominator = squared.sqrt().add_(group["eps"] * root)
        return torch.div(grad, denominator, out=denominator).mul_(-group["lr"] * root * scale)

    def _observe_size(self, param: Tensor, grad: Tensor, t: int) -> None:
        """Refresh the sizes when due, and note the gradients with respect to log sizes."""
        if t == 0 or t % SIZE_PERIOD == SIZE_PERIOD - 1:
            norms = torch.linalg.vector_norm(param.flatten(1), dim=1)
            self.state["rms"].copy_(norms / param[0].numel() ** 0.5)
        size_grads = torch.linalg.vecdot(param.flatten(1), grad.flatten(1))
        self.state["size_grads"][:, t % SIZE_PERIOD] = size_grads

    def _size_step(self, group: dict[str, Any]) -> Tensor:
        """(n,) relative change of the tensors' sizes: Adam on the log size, every fourth step."""
        (smallest, largest), t = group["param_rms_limits"], group["num_steps"]
        rms, squared = self.state["rms"], self.state["size_squared_grad"]
        grads = self.state["size_grads"]
        beta = group["betas"][1] ** SIZE_PERIOD
        squared.mul_(beta).add_(grads.square().mean(1), alpha=1.0 - beta)
        correction = 1.0 - beta ** ((t + 1) / SIZE_PERIOD)
        lr = group["lr"] * group["scalar_lr_scale"] * correction**0.5
        step = -lr * grads.sum(1) / (squared.sqrt() + group["eps"])
        step = torch.where(rms < smallest, 0.0, step).clamp(-MAX_SIZE_STEP, MAX_SIZE_STEP)
        return torch.minimum(step, (largest - rms) / rms)


def _stacks_of(params: list[Tensor], state: defaultdict[Tensor, Any]) -> list[_Stack]:
    alike: dict[tuple[Any, ...], list[Tensor]] = {}
    for param in params:
        alike.setdefault((param.shape, param.dtype, param.device), []).append(param)
    stacks = []
    for same in alike.values():
        limit = MAX_STACK_ELEMENTS.get(same[0].device.type, MAX_STACK_ELEMENTS["cuda"])
        size = max(1, limit // max(1, same[0].numel()))
        stacks += [_Stack(same[i : i + size], state) for i in range(0, len(same), size)]
    return stacks


def _expand(per_param: Tensor, like: Tensor) -> Tensor:
    return per_param.view(-1, *[1] * (like.ndim - 1))


def _median(norms: Tensor) -> Tensor:
    """The original's median, which lies a little above the middle for most counts."""
    median = norms.sort().values[2 * (len(norms) // 4)]
    if not median.isfinite():
        raise RuntimeError(
            f"half of the last {len(norms)} gradient norms are not finite; lower the learning rate "
            "or use precision=bf16-mixed or 32-true"
        )
    return median
