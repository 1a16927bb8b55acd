"""Probes during training, seen by the loggers and a JSON file but not by the training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from ssl_audio.callbacks.figures import draw_layer_weights
from ssl_audio.callbacks.progress import bar_of
from ssl_audio.files import write_json
from ssl_audio.models.ema import EMA
from ssl_audio.models.encoder import Encoder
from ssl_audio.probes.classify import PROBES, ProbeSettings
from ssl_audio.probes.collapse import Spread, spread_of_clips
from ssl_audio.probes.features import PooledFeatures
from ssl_audio.probes.isolation import same_random_state
from ssl_audio.probes.ranks import Ranks
from ssl_audio.probes.runner import (
    BASELINES,
    DEFAULT_PROBES,
    LOG_MEL,
    TRAINED,
    UNTRAINED,
    probe_sources,
)
from ssl_audio.probes.sources import EncoderLayers, FrameSource, LogMelFrames, untrained_twin
from ssl_audio.probes.suite import ProbeSuite
from ssl_audio.probes.tokens import token_quality
from ssl_audio.tokenizers.tokenizer import Tokenizer

MENU = (*PROBES, "rank", "tokens")
STUDENT, EMA_TARGET = "student", "ema"
MIN_SHARE = 1 / 16  # of the clips, however slow probing is


class OnlineProbes(Callback):
    """Probes the encoder in training every ``every_n_steps`` optimizer steps and at the end.

    All ranks share the work: each extracts features of its part of the clips and fits its part of
    the heads. Nothing that training computes with changes: no gradients, modes and random states
    restored, own data, heads with their own solvers, scalars written to the loggers directly. The
    baselines are probed once, before the first step. Results lie in ``path`` and in the checkpoint,
    so a resumed run continues its own history. An error while probing is reported in one warning
    and never ends the run.

    Args:
        suite: the tasks, or a function that opens them when training starts.
        probes: names of ``MENU``. Classifiers go over all tasks; "boundaries" over those of
            boundaries; "rank" watches for collapse; "tokens" scores the task's tokenizers.
        every_n_steps: 0 probes only at the end.
        at_end: probe after the last step too.
        max_seconds: a run that took longer halves the clips of the next ones, baselines included;
            None never does.
        clips_per_task: most clips of a task's split; None takes all of the suite.
        target: "student", or "ema" for the task's moving average of it.
        baselines: which of "untrained" and "log-mel" to compare with.
        layers: names of hidden states; None probes all.
        settings: how to probe.
        path: the JSON file; by default ``probes.json`` in the trainer's root folder.
        cache_dir: baselines are kept here for other runs too.
        encoder_name: attribute of the task that holds the encoder.

    Raises:
        ValueError: a negative interval, an unknown probe, target or baseline.
    """

    def __init__(
        self,
        suite: ProbeSuite | Callable[[], ProbeSuite],
        *,
        probes: Sequence[str] = DEFAULT_PROBES,
        every_n_steps: int = 0,
        at_end: bool = True,
        max_seconds: float | None = None,
        clips_per_task: int | None = None,
        target: str = STUDENT,
        baselines: Sequence[str] = BASELINES,
        layers: Sequence[str] | None = None,
        settings: ProbeSettings | None = None,
        path: str | Path | None = None,
        cache_dir: str | Path | None = None,
        encoder_name: str = "encoder",
    ) -> None:
        if every_n_steps < 0:
            raise ValueError(f"every_n_steps must be 0 or more, got {every_n_steps}")
        for what, names, known in (
            ("probe", probes, MENU),
            ("baseline", baselines, BASELINES),
            ("target", [target], (STUDENT, EMA_TARGET)),
        ):
            for name in names:
                if name not in known:
                    raise ValueError(f"unknown {what} {name!r}; use {' or '.join(known)}")
        self.probes = [name for name in probes if name in PROBES]
        self.extras = [name for name in probes if name not in PROBES]
        self.every_n_steps = every_n_steps
        self.at_end = at_end
        self.max_seconds, self.clips_per_task = max_seconds, clips_per_task
        self.target = target
        self.baselines = tuple(baselines)
        self.layers = layers
        self.settings = settings or ProbeSettings()
        self.path = None if path is None else Path(path)
        self.cache_dir = cache_dir
        self.encoder_name = encoder_name
        self._open_suite = suite
        self._suite: ProbeSuite | None = None
        self._ranks = Ranks()
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
            self._ranks = Ranks.current()
            self._safely(lambda: self._begin(trainer, pl_module))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        due = self.every_n_steps > 0 and step > 0 and step % self.every_n_steps == 0
        if due and not _is_dry_run(trainer):
            self._safely(lambda: self._probe_encoder(trainer, pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.at_end and trainer.global_step > 0 and not _is_dry_run(trainer):
            self._safely(lambda: self._probe_encoder(trainer, pl_module))

    # -- work, on all ranks in step -------------------------------------------------------------

    def _safely(self, work: Callable[[], None]) -> None:
        try:
            with same_random_state():
                work()
        except Exception as error:  # a probe is never worth a training run
            rank_zero_warn(f"online probes failed, training goes on: {error!r}")

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._open_on_all()
        fingerprint = self._opened().fingerprint()
        if self._record["suite_fingerprint"] not in (None, fingerprint):
            rank_zero_warn(
                "online probes: the suite differs from the one in the checkpoint "
                f"({fingerprint}, was {self._record['suite_fingerprint']}); its results are dropped"
            )
            self._record = _empty_record()
        self._record["suite_fingerprint"] = fingerprint
        self._probe_baselines(trainer, pl_module)

    def _probe_baselines(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Those that the record does not hold for the present share of the clips."""
        missing: dict[str, FrameSource] = {}
        encoder = self._encoder(pl_module)
        for name in self.baselines:
            if name in self._record["baselines"]:
                continue
            if name == UNTRAINED:
                seed = getattr(pl_module, "seed", 0)  # the run's, so that fresh weights are these
                missing[name] = self._layers_of(untrained_twin(encoder, seed))
            elif name == LOG_MEL:
                missing[name] = LogMelFrames(device=pl_module.device)
        results = self._probed(trainer, missing, self.cache_dir)
        self._record |= {key: results[key] for key in ("suite", "settings")}
        self._record["baselines"] |= results["scores"]
        self._warn(results["warnings"])
        self._write(trainer)

    def _probe_encoder(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step, history = trainer.global_step, self._record["history"]
        if history and history[-1]["step"] == step:
            return  # accumulation: several micro-batches see the same step
        self._open_on_all()
        self._probe_baselines(trainer, pl_module)
        started = time.perf_counter()
        spreads: list[Spread] = []
        results = self._probed(
            trainer,
            {TRAINED: self._layers_of(self._encoder(pl_module))},
            on_features=lambda _, table: spreads.append(spread_of_clips(table)),
        )
        entry = {
            "step": step,
            "clips": self._record["share"],
            "scores": results["scores"][TRAINED],
            "rank": asdict(spreads[0]) if "rank" in self.extras and spreads else None,
            "tokens": self._tokens(pl_module) if "tokens" in self.extras else {},
        }
        took = max(self._ranks.each(lambda: time.perf_counter() - started))
        history.append({**entry, "seconds": took})
        self._warn(results["warnings"])
        if entry["rank"] and (alarm := spreads[0].alarm()):
            self._warn([f"step {step}: collapse: {alarm}"])
        self._keep_to_budget(took)
        self._write(trainer)
        if trainer.is_global_zero:
            scalars = probe_scalars(history[-1], self._record["baselines"])
            for logger in trainer.loggers:
                logger.log_metrics(scalars, step=step)
                draw_layer_weights(logger, entry["scores"], step)

    def _probed(
        self,
        trainer: Trainer,
        sources: Mapping[str, FrameSource],
        cache_dir: str | Path | None = None,
        on_features: Callable[[str, PooledFeatures], None] | None = None,
    ) -> dict[str, Any]:
        share = self._record["share"]
        with bar_of(trainer, "Probing") as advance:
            return probe_sources(
                sources,
                self._opened().thinned(lambda count: max(1, math.ceil(share * count))),
                probes=self.probes,
                settings=self.settings,
                cache_dir=cache_dir,
                on_progress=advance,
                ranks=self._ranks,
                on_features=on_features,
            )

    def _tokens(self, pl_module: LightningModule) -> dict[str, Any]:
        """Statistics of every tokenizer of the task; those outside its modules never change."""
        suite = self._opened()
        suite = suite.only([task.name for task in suite.tasks if task.unit != "boundary"])
        own = {
            n: x
            for n, x in pl_module.named_modules()
            if isinstance(x, Tokenizer) and x.num_codebooks
        }
        fixed = {} if self._record["tokens"] else getattr(pl_module, "tokenizers", None) or {}

        def share() -> dict[str, Any]:
            names = self._ranks.share(sorted({**own, **fixed}))
            return {
                name: token_quality({**own, **fixed}[name], suite, splits=("test",))
                for name in names
            }

        found = {name: x for part in self._ranks.each(share) for name, x in part.items()}
        self._record["tokens"] |= {name: found[name] for name in fixed}
        return {**self._record["tokens"], **found}

    def _keep_to_budget(self, took: float) -> None:
        if self.max_seconds is None or took <= self.max_seconds:
            return
        share = self._record["share"] / 2
        if share < MIN_SHARE:
            return
        self._record["share"] = share
        self._record["baselines"] = {}  # of other clips: probed anew before the next run
        self._warn(
            [
                f"took {took:.0f} s, more than {self.max_seconds:g} s: from now on "
                f"{100 * share:g} % of the clips"
            ]
        )

    def _open_on_all(self) -> None:
        """What fails on one rank must fail on all, or they would wait for each other forever."""
        self._ranks.each(lambda: self._opened().name)

    def _opened(self) -> ProbeSuite:
        if self._suite is None:
            opener = self._open_suite
            suite = opener if isinstance(opener, ProbeSuite) else opener()
            most = self.clips_per_task
            if most is not None:
                suite = suite.thinned(lambda count: min(count, most))
            self._suite = suite
        return self._suite

    def _layers_of(self, encoder: Encoder) -> FrameSource:
        return EncoderLayers(encoder, self.layers, patches=self.settings.patches)

    def _encoder(self, pl_module: LightningModule) -> Encoder:
        if self.target == EMA_TARGET:
            return _ema_encoder(pl_module)
        encoder = getattr(pl_module, self.encoder_name)
        return getattr(encoder, "_orig_mod", encoder)  # what torch.compile wrapped

    def _warn(self, lines: Sequence[str]) -> None:
        fresh = [line for line in lines if line not in self._record["warnings"]]
        self._record["warnings"] += fresh
        for line in fresh:
            rank_zero_warn(f"online probes: {line}")

    def _write(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        path = self.path or Path(trainer.default_root_dir) / "probes.json"
        try:
            write_json(path, self._record)
        except OSError as error:  # the other ranks go on, so this one does
            self._warn([f"{path} cannot be written: {error}"])


def latest_results(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What ``run_probes`` would return, from the content of a ``probes.json``; None before any."""
    if not record["history"]:
        return None
    scores = {TRAINED: record["history"][-1]["scores"], **record["baselines"]}
    kept = ("suite", "suite_fingerprint", "settings", "warnings")
    return {**{key: record[key] for key in kept}, "scores": scores}


def probe_scalars(
    entry: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """What a logger gets of one entry of the history.

    ``probe/<task>/<metric>`` on test, the same with ``@<baseline>``, their means over the tasks of
    the first classifier, and on valid ``probe/<task>/valid@<layer>``; spread and tokens where the
    entry has them.
    """
    scalars = {"probe/seconds": float(entry["seconds"])}
    for suffix, by_task in (("", entry["scores"]), *((f"@{n}", s) for n, s in baselines.items())):
        for task, score in by_task.items():
            scalars[f"probe/{task}/{score['metric']}{suffix}"] = score["value"]
        # Rows of further classifiers are called TASK/PROBE, and boundaries have another metric.
        values = [
            score["value"]
            for task, score in by_task.items()
            if "/" not in task and score["metric"] == "accuracy"
        ]
        if values:
            scalars[f"probe/mean{suffix}"] = sum(values) / len(values)
    for task, score in entry["scores"].items():
        for layer, values in score.get("grid", {}).items():
            scalars[f"probe/{task}/valid@{layer}"] = max(values)
    for name, value in (entry.get("rank") or {}).items():
        scalars[f"probe/{name}"] = value
    for name, quality in (entry.get("tokens") or {}).items():
        for key in ("perplexity", "utilisation"):
            scalars[f"probe/tokens/{name}/{key}"] = quality["codebooks"]["mean"][key]
        for task, agreement in quality["agreement"].items():
            scalars[f"probe/tokens/{name}/{task}/pnmi"] = agreement["mean"]["pnmi"]
    return scalars


def _ema_encoder(pl_module: LightningModule) -> Encoder:
    if hasattr(pl_module, "averaged_encoder"):  # where the average has a part of the weights
        averaged: Encoder = pl_module.averaged_encoder()  # type: ignore[operator]
        return averaged
    for module in pl_module.modules():
        if isinstance(module, EMA):
            for part in module.module.modules():
                if isinstance(part, Encoder):
                    return part
    raise ValueError(f"{type(pl_module).__name__} keeps no moving average; use target=student")


def _is_dry_run(trainer: Trainer) -> bool:
    return bool(getattr(trainer, "fast_dev_run", False))


def _empty_record() -> dict[str, Any]:
    return {
        "suite": None,
        "suite_fingerprint": None,
        "settings": None,
        "share": 1.0,
        "baselines": {},
        "tokens": {},
        "history": [],
        "warnings": [],
    }
