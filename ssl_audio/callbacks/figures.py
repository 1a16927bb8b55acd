"""TensorBoard pictures of what a masked-prediction task sees and answers.

The task offers ``last_figures()``: the tensors of one clip of the newest batch, as a dict with any
of the keys ``features`` (T, M), ``mask`` (T,) bool, ``codes`` and ``predicted`` {teacher: (T', N)}
and ``usage`` {teacher: (N, K) counts}.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from ssl_audio.batch import IGNORE_CODE

MAX_CODEBOOKS = 8  # rows of the code picture; more cannot be told apart


class TrainingFigures(Callback):
    """Writes the task's pictures every ``every_n_steps`` optimizer steps, on rank 0.

    Without a TensorBoard logger it does nothing.

    Args:
        every_n_steps: at least 1; the first step is drawn too.

    Raises:
        ValueError: an interval below 1.
    """

    def __init__(self, every_n_steps: int = 1000) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self._drawn_step = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = step == 1 or step % self.every_n_steps == 0
        if not due or step in (0, self._drawn_step) or not trainer.is_global_zero:
            return
        loggers = [x for x in trainer.loggers if isinstance(x, TensorBoardLogger)]
        if not loggers:
            return
        self._drawn_step = step
        tensors = pl_module.last_figures()  # type: ignore[operator]
        for tag, picture in training_pictures(tensors):
            for logger in loggers:
                logger.experiment.add_image(tag, picture, step, dataformats="HWC")


def training_pictures(tensors: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Tag and (height, width, 3) uint8 picture for everything that ``tensors`` holds."""
    if "features" in tensors:
        yield "figures/spectrogram", draw_spectrogram(tensors["features"], tensors.get("mask"))
    for teacher, codes in tensors.get("codes", {}).items():
        predicted = tensors.get("predicted", {}).get(teacher)
        if predicted is not None:
            yield f"figures/codes_{teacher}", draw_codes(codes, predicted)
    for teacher, usage in tensors.get("usage", {}).items():
        yield f"figures/usage_{teacher}", draw_usage(usage)


def draw_spectrogram(features: Tensor, mask: Tensor | None) -> np.ndarray:
    """Features (T, M) with the masked frames (T,) shaded."""
    figure, axes = _new_figure(10.0, 3.2)
    values = _array(features)
    image = axes.imshow(values.T, origin="lower", aspect="auto", cmap="magma")
    figure.colorbar(image, ax=axes, pad=0.01)
    if mask is not None:
        for start, stop in _runs(_array(mask) > 0):
            axes.axvspan(start - 0.5, stop - 0.5, color="white", alpha=0.45, linewidth=0)
        axes.set_title(f"front end, {100 * _array(mask).mean():.0f} % of the frames masked (light)")
    axes.set_xlabel("frame")
    axes.set_ylabel("channel")
    return _render(figure)


def draw_codes(codes: Tensor, predicted: Tensor) -> np.ndarray:
    """Target and predicted codes (T, N), and where they agree; frames without target are white."""
    target, guess = _array(codes)[:, :MAX_CODEBOOKS], _array(predicted)[:, :MAX_CODEBOOKS]
    known = target != IGNORE_CODE
    share = float((target == guess)[known].mean()) if known.any() else float("nan")
    figure, axes = _new_figure(10.0, 4.6, rows=3)
    top = max(1, int(target.max(initial=0)), int(guess.max(initial=0)))
    for row, (title, values) in enumerate((("target", target), ("predicted", guess))):
        picture = np.ma.masked_array(values, ~known)
        axes[row].imshow(picture.T, aspect="auto", cmap="turbo", vmin=0, vmax=top)
        axes[row].set_ylabel(title)
    agreement = np.ma.masked_array(target == guess, ~known)
    axes[2].imshow(agreement.T, aspect="auto", cmap="Greens", vmin=0, vmax=1)
    axes[2].set_ylabel(f"equal: {100 * share:.0f} %")
    axes[2].set_xlabel(f"frame (codebooks 0 to {target.shape[1] - 1} from top to bottom)")
    return _render(figure)


def draw_layer_weights(logger: Any, scores: Mapping[str, Any], step: int) -> None:
    """A bar for each layer's share in the learned sums of SUPERB-style probes.

    Args:
        logger: other than TensorBoard's draw nothing.
        scores: record by task; those without learned weights are passed over.
    """
    if not isinstance(logger, TensorBoardLogger):
        return
    for task, score in scores.items():
        weights = score.get("chosen", {}).get("layer_weights")
        if not weights:
            continue
        figure, axes = _new_figure(5.0, 3.0)
        axes.bar(list(weights), list(weights.values()))
        axes.set_xlabel("layer")
        axes.set_ylabel("share")
        logger.experiment.add_image(
            f"probe/{task}/layer_weights", _render(figure), step, dataformats="HWC"
        )


def draw_usage(usage: Tensor) -> np.ndarray:
    """Counts (N, K): the share of each code, most used first, on a logarithmic scale."""
    counts = np.sort(_array(usage).astype(np.float64), axis=1)[:, ::-1]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    entropy = -np.sum(share * np.log(np.maximum(share, 1e-12)), axis=1)
    figure, axes = _new_figure(7.0, 3.6)
    for row in share:
        axes.plot(np.maximum(row, 1e-6), linewidth=0.8, alpha=0.6)
    axes.axhline(1 / share.shape[1], color="black", linestyle=":", linewidth=1)
    axes.set_yscale("log")
    axes.set_xlabel("code, most used first")
    axes.set_ylabel("share (dotted: uniform)")
    perplexity = np.exp(entropy)
    axes.set_title(
        f"{len(share)} codebooks of {share.shape[1]}: perplexity "
        f"{perplexity.min():.0f} to {perplexity.max():.0f}, {100 * (counts > 0).mean():.0f} % used"
    )
    return _render(figure)


def _new_figure(width: float, height: float, rows: int = 1) -> tuple[Any, Any]:
    """A figure outside pyplot, which keeps global state and may open windows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    return figure, figure.subplots(rows, 1, sharex=rows > 1)


def _render(figure: Any) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """[start, stop) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()
