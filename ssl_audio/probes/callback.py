"""Linear probes during training, seen by TensorBoard and a JSON file but not by the training."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from ssl_audio.files import write_json
from ssl_audio.models.encoder import Encoder
from ssl_audio.probes.classify import ProbeSettings
from ssl_audio.probes.runner import (
    BASELINES,
    LOG_MEL,
    TRAINED,
    UNTRAINED,
    probe_sources,
)
from ssl_audio.probes.sources import EncoderLayers, FrameSource, LogMelFrames, untrained_twin
from ssl_audio.probes.suite import ProbeSuite


class OnlineProbes(Callback):
    """Probes the encoder in training every ``every_n_steps`` optimizer steps and at the end.

    Rank 0 probes, the other ranks wait. Nothing that training computes with changes: no gradients,
    modes and random states restored, own data, heads with their own solver, scalars written to the
    loggers directly. The baselines are probed once, before the first step; "untrained" is then the
    encoder as training found it. Results lie in ``path`` and in the checkpoint, so a resumed run
    continues its own history. An error while probing is reported in one warning and never ends
    the run.

    Args:
        suite: the tasks, or a function that opens them when training starts.
        every_n_steps: 0 probes only at the end.
        at_end: probe after the last step too.
        baselines: which of "untrained" and "log-mel" to compare with.
        layers: names of hidden states; None probes all.
        settings: how to probe.
        path: the JSON file; by default ``probes.json`` in the trainer's root folder.
        cache_dir: baselines are kept here for other runs too.
        encoder_name: attribute of the task that holds the encoder.

    Raises:
        ValueError: a negative interval or an unknown baseline.
    """

    def __init__(
        self,
        suite: ProbeSuite | Callable[[], ProbeSuite],
        *,
        every_n_steps: int = 0,
        at_end: bool = True,
        baselines: Sequence[str] = BASELINES,
        layers: Sequence[str] | None = None,
        settings: ProbeSettings | None = None,
        path: str | Path | None = None,
        cache_dir: str | Path | None = None,
        encoder_name: str = "encoder",
    ) -> None:
        if every_n_steps < 0:
            raise ValueError(f"every_n_steps must be 0 or more, got {every_n_steps}")
        for name in baselines:
            if name not in BASELINES:
                raise ValueError(f"unknown baseline {name!r}; use {' or '.join(BASELINES)}")
        self.every_n_steps = every_n_steps
        self.at_end = at_end
        self.baselines = tuple(baselines)
        self.layers = layers
        self.settings = settings or ProbeSettings()
        self.path = None if path is None else Path(path)
        self.cache_dir = cache_dir
        self.encoder_name = encoder_name
        self._open_suite = suite
        self._suite: ProbeSuite | None = None
        self._record = _empty_record()

    # -- results --------------------------------------------------------------------------------

    @property
    def results(self) -> dict[str, Any] | None:
        """The newest scores with the baselines, as ``run_probes`` returns them; None before any."""
        return latest_results(self._record)

    def state_dict(self) -> dict[str, Any]:
        return self._record

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._record = {**_empty_record(), **state_dict}

    # -- hooks ----------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not _is_dry_run(trainer):
            self._on_first_rank(trainer, lambda: self._probe_baselines(trainer, pl_module))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = self.every_n_steps > 0 and step > 0 and step % self.every_n_steps == 0
        if due and not _is_dry_run(trainer):
            self._on_first_rank(trainer, lambda: self._probe_encoder(trainer, pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.at_end and trainer.global_step > 0 and not _is_dry_run(trainer):
            self._on_first_rank(trainer, lambda: self._probe_encoder(trainer, pl_module))

    # -- work, on rank 0 ------------------------------------------------------------------------

    def _on_first_rank(self, trainer: Trainer, work: Callable[[], None]) -> None:
        if trainer.is_global_zero:
            try:
                work()
            except Exception as error:  # a probe is never worth a training run
                rank_zero_warn(f"online probes failed, training goes on: {error!r}")
        if trainer.world_size > 1:
            trainer.strategy.barrier("online_probes")

    def _probe_baselines(self, trainer: Trainer, pl_module: LightningModule) -> None:
        suite = self._opened()
        fingerprint = suite.fingerprint()
        if self._record["suite_fingerprint"] not in (None, fingerprint):
            rank_zero_warn(
                "online probes: the suite differs from the one in the checkpoint "
                f"({fingerprint}, was {self._record['suite_fingerprint']}); its results are dropped"
            )
            self._record = _empty_record()
        missing: dict[str, FrameSource] = {}
        encoder = self._encoder(pl_module)
        for name in self.baselines:
            if name in self._record["baselines"]:
                continue
            if name == UNTRAINED:
                fresh = encoder if trainer.global_step == 0 else untrained_twin(encoder)
                missing[name] = self._layers_of(fresh)
            elif name == LOG_MEL:
                missing[name] = LogMelFrames(device=pl_module.device)
        results = probe_sources(missing, suite, settings=self.settings, cache_dir=self.cache_dir)
        self._record |= {key: results[key] for key in ("suite", "suite_fingerprint", "settings")}
        self._record["baselines"] |= results["scores"]
        self._warn(results["warnings"])
        self._write(trainer)

    def _probe_encoder(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step, history = trainer.global_step, self._record["history"]
        if history and history[-1]["step"] == step:
            return  # accumulation: several micro-batches see the same step
        started = time.perf_counter()
        source = self._layers_of(self._encoder(pl_module))
        results = probe_sources({TRAINED: source}, self._opened(), settings=self.settings)
        seconds = time.perf_counter() - started
        scores = results["scores"][TRAINED]
        history.append({"step": step, "seconds": seconds, "scores": scores})
        self._warn(results["warnings"])
        self._write(trainer)
        scalars = probe_scalars(scores, self._record["baselines"])
        for logger in trainer.loggers:
            logger.log_metrics({**scalars, "probe/seconds": seconds}, step=step)

    def _opened(self) -> ProbeSuite:
        if self._suite is None:
            opener = self._open_suite
            self._suite = opener if isinstance(opener, ProbeSuite) else opener()
        return self._suite

    def _layers_of(self, encoder: Encoder) -> FrameSource:
        return EncoderLayers(encoder, self.layers, patches=self.settings.patches)

    def _encoder(self, pl_module: LightningModule) -> Encoder:
        encoder = getattr(pl_module, self.encoder_name)
        return getattr(encoder, "_orig_mod", encoder)  # what torch.compile wrapped

    def _warn(self, lines: Sequence[str]) -> None:
        fresh = [line for line in lines if line not in self._record["warnings"]]
        self._record["warnings"] += fresh
        for line in fresh:
            rank_zero_warn(f"online probes: {line}")

    def _write(self, trainer: Trainer) -> None:
        write_json(self.path or Path(trainer.default_root_dir) / "probes.json", self._record)


def latest_results(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What ``run_probes`` would return, from the content of a ``probes.json``; None before any."""
    if not record["history"]:
        return None
    scores = {TRAINED: record["history"][-1]["scores"], **record["baselines"]}
    kept = ("suite", "suite_fingerprint", "settings", "warnings")
    return {**{key: record[key] for key in kept}, "scores": scores}


def probe_scalars(
    scores: Mapping[str, Mapping[str, Any]], baselines: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """Scalars for a logger: ``probe/<task>/<metric>``, the same with ``@<baseline>``, and means."""
    scalars: dict[str, float] = {}
    for suffix, by_task in (("", scores), *((f"@{name}", s) for name, s in baselines.items())):
        for task, score in by_task.items():
            scalars[f"probe/{task}/{score['metric']}{suffix}"] = score["value"]
        if by_task:
            mean = sum(score["value"] for score in by_task.values()) / len(by_task)
            scalars[f"probe/mean{suffix}"] = mean
    return scalars


def _is_dry_run(trainer: Trainer) -> bool:
    return bool(getattr(trainer, "fast_dev_run", False))


def _empty_record() -> dict[str, Any]:
    return {
        "suite": None,
        "suite_fingerprint": None,
        "settings": None,
        "baselines": {},
        "history": [],
        "warnings": [],
    }
