"""Training BEATs' tokenizer: what moves, what stays, and the alarm of a collapse."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import DataLoader

from ssl_audio import hub
from ssl_audio.data.dataset import already_collated
from ssl_audio.models.spectral import MfccEncoder
from ssl_audio.stages.common import seeded
from ssl_audio.tasks.distillation import DistillationTask
from ssl_audio.tokenizers import DistilledTokenizer

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def parts():
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("beats_parts.py"))))


def make_task(parts, teacher=None, **changes):
    settings = {"estimator_layers": 1, "commitment_weight": 1.0, "alarm_perplexity": 1.5}
    teacher = teacher or parts.make_encoder(encoder_embed_dim=12).eval().requires_grad_(False)
    with seeded(6):
        tokenizer = DistilledTokenizer(parts.make_encoder().config, 8, 4)
        return DistillationTask(tokenizer, teacher, **settings | parts.COMMON | changes)


def test_the_tokenizer_learns_and_the_teacher_stays(program, parts):
    task = make_task(parts)
    before = hub.content_hash(task.teacher)
    batch = parts.make_batches(1)[0]
    losses = program.fit(task, [batch] * 10, steps=10).losses
    assert losses[-1] < 0.8 * losses[0]
    assert hub.content_hash(task.teacher) == before
    assert not any("teacher" in name for name in task.state_dict())
    assert sum(p.numel() for p in task.parameters()) == sum(
        p.numel() for part in (task.tokenizer, task.estimator) for p in part.parameters()
    )


def test_the_codebook_moves_once_a_step(program, parts):
    """Accumulated halves move it as the whole does."""
    batches = parts.make_batches(2)
    rows = []
    for accumulate in (1, 2):
        task = make_task(parts)
        task.tokenizer.codebook.initialized.fill_(True)
        start = task.tokenizer.codebook.embedding.clone()
        program.fit(task, batches[:accumulate], accumulate=accumulate, steps=1)
        rows.append(task.tokenizer.codebook.embedding - start)
        assert rows[-1].abs().max() > 1e-4
        assert task.tokenizer.codebook.usage.sum() > 0
    assert not torch.equal(*rows)


def test_padding_counts_for_nothing(parts):
    task = make_task(parts).eval()
    batch = parts.make_batches(1)[0]
    losses = task._distill(batch)
    valid = torch.arange(losses.codes.shape[1]) < losses.lengths[:, None]
    assert torch.equal(losses.codes >= 0, valid)
    assert not task._total(losses)[~valid].any()


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_stays_finite(program, parts, dtype):
    task = make_task(parts)
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1.0))
    precision = {"precision": "bf16-mixed"} if dtype == "bf16" else {"plugins": [plugin]}
    batches = parts.make_batches(3) * 10
    seen = program.fit(task, batches, steps=30, **precision)
    assert len(seen.losses) == 30
    assert seen.losses[-1] < seen.losses[0]
    assert all(map(math.isfinite, seen.losses))
    assert task.tokenizer.codebook.embedding.isfinite().all()


def test_a_collapse_raises_an_alarm(parts, caplog):
    for limit, validates, alarms in ((1.0, True, 0), (9.0, True, 2), (9.0, False, 1)):
        task = make_task(parts, alarm_perplexity=limit)
        loader = DataLoader(parts.make_batches(2), batch_size=None, collate_fn=already_collated)
        trainer = Trainer(
            accelerator="cpu",
            max_steps=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        caplog.clear()
        trainer.fit(task, loader, loader if validates else None)
        found = [line for line in caplog.messages if "the codebook collapses: perplexity" in line]
        assert len(found) == alarms


def test_a_teacher_on_another_clock_is_refused(parts):
    with pytest.raises(ValueError, match="the tokenizer has 50 patches a second; choose a BEATs"):
        make_task(parts, teacher=parts_teacher())
    with pytest.raises(ValueError, match="commitment_weight=-1"):
        make_task(parts, commitment_weight=-1)


def parts_teacher():
    teacher = MfccEncoder(8, 4, context=(0,))
    teacher.frame_rate = 25.0
    return teacher
