"""Fine-tune an encoder on labelled clips; keep the best by validation and test it once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint

from ssl_audio import hub
from ssl_audio.checkpoints import load_strict, read_checkpoint
from ssl_audio.config import construct
from ssl_audio.data.labelled_datamodule import LabelledDataModule
from ssl_audio.files import write_json
from ssl_audio.models.beats import BeatsEncoder
from ssl_audio.models.encoder import Encoder
from ssl_audio.pipeline import RunContext, Stage, global_rank, provenance, rank_zero_print
from ssl_audio.stages.common import build_data, seeded
from ssl_audio.stages.fit import FitSections, build_trainer, fit
from ssl_audio.tasks.finetune import FinetuneTask


class FinetuneStage(Stage):
    """Fit a ``FinetuneTask``; export the best encoder and write its scores.

    ``checkpoints`` holds the last checkpoints and the best one, ``best.ckpt``; ``results.json`` the
    scores on validation and test. A BEATs export has the classifier inside
    (``BeatsEncoder.probabilities``).

    Args:
        source: of the encoder, for ``load_encoder``, or ``stage:NAME``.
        model: keys of the encoder's config that are to change, such as dropouts.
        task: section of the task.
        data: section of the labelled data.
        trainer, callbacks, logger: their sections.
        checkpoint_every: optimizer steps between checkpoints and between validations.
        seed: of the head's weights, data order and all draws.
    """

    ranks = "all"

    def __init__(
        self,
        source: str,
        model: Mapping[str, Any] | None,
        task: Mapping[str, Any],
        data: Mapping[str, Any],
        trainer: Mapping[str, Any],
        callbacks: Mapping[str, Any],
        logger: Mapping[str, Any] | None,
        checkpoint_every: int,
        seed: int,
    ) -> None:
        self.source, self.task, self.data = source, task, data
        self.model = model or {}
        self.sections = FitSections(trainer, callbacks, logger, task["max_steps"], checkpoint_every)
        self.seed = seed

    def run(self, directory: Path, context: RunContext) -> None:
        data = build_data(self.data, self.seed)
        assert isinstance(data, LabelledDataModule)
        _check_labels(data, self.task["objective"])
        with seeded(self.seed):
            encoder = trainable(hub.load_encoder(context.resolve(self.source)), self.model)
            task = construct(self.task, "task", encoder=encoder, labels=data.labels, seed=self.seed)
        best = ModelCheckpoint(
            dirpath=directory / "checkpoints",
            filename="best",
            monitor="valid/score",
            mode="max",
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )
        trainer = build_trainer(self.sections, directory, best)
        fit(trainer, task, data, directory)
        results = {"labels": data.labels, "metric": task.metric}
        if Path(best.best_model_path).is_file():
            content = read_checkpoint(best.best_model_path)
            load_strict(task, content["state_dict"], best.best_model_path)
            results |= {"step": content["global_step"], "valid": float(best.best_model_score)}  # type: ignore[arg-type]
        (scores,) = trainer.test(task, data, verbose=False)
        results["test"] = scores["test/score"]
        rank_zero_print(f"{task.metric} on test: {results['test']:.4f}")
        if global_rank() == 0:
            hub.save(with_classifier(task), directory / "export", provenance(directory))
            write_json(directory / "results.json", results)


def trainable(source: Encoder, changes: Mapping[str, Any]) -> Encoder:
    """A copy of a frozen encoder that trains, its config changed, a classifier left out.

    Raises:
        ValueError: a key that the encoder's config does not have.
    """
    config = {**source.config, **changes}
    if isinstance(source, BeatsEncoder):
        config |= {"finetuned_model": False, "labels": None}
    encoder: Encoder = hub.build({"kind": source.kind, "config": config}, "model.config")
    tensors = source.state_dict()
    kept = {name: x for name, x in tensors.items() if not name.startswith("predictor.")}
    load_strict(encoder, kept, "model.source")
    return encoder.requires_grad_(True)


def with_classifier(task: FinetuneTask) -> Encoder:
    """The encoder, with the head as its own classifier where its kind has a place for one."""
    if not isinstance(task.encoder, BeatsEncoder):
        return task.encoder
    config = {
        **task.encoder.config,
        "finetuned_model": True,
        "predictor_class": len(task.labels),
        "predictor_dropout": task.dropout,
        "labels": list(task.labels),
    }
    encoder = BeatsEncoder(**config)
    predictor = {f"predictor.{name}": x for name, x in task.head.state_dict().items()}
    load_strict(encoder, task.encoder.state_dict() | predictor, "the fine-tuned encoder")
    return encoder


def _check_labels(data: LabelledDataModule, objective: str) -> None:
    if objective == "single_label" and (data.source.targets.sum(1) > 1).any():
        raise ValueError(
            f"data.task={data.source.name}: some clips have several labels; "
            "set task.objective=multi_label"
        )
