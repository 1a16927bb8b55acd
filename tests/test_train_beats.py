"""BEATs and fine-tuning through ``train.py`` on a tiny corpus: two iterations, killed, resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_audio import audio, hub
from ssl_audio.models import BeatsEncoder
from ssl_audio.tasks.beats import BeatsTask
from ssl_audio.tasks.distillation import DistillationTask
from ssl_audio.tasks.finetune import FinetuneTask
from ssl_audio.tokenizers import DistilledTokenizer, RandomProjectionTokenizer

pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).resolve().parents[1]
RATE_HZ = 16_000
STEPS, EVERY = 6, 2
TIMEOUT_SEC = 300
SHORT = [
    "callbacks.probes=null",
    "callbacks.figures=null",
    "data.num_workers=0",
    f"trainer.val_check_interval={EVERY}",
    "trainer.log_every_n_steps=1",
    "+trainer.enable_progress_bar=false",
    "trainer.enable_model_summary=false",
    f"task.max_steps={STEPS}",
]
BEATS = [
    "experiment=beats",
    "task.schedule.warmup_steps=1",
    "data=folder",
    "probe=none",
    "data.batch_sec=2",
    "data.min_sec=0.3",
    "data.max_sec=0.7",
    "data.valid_fraction=0.2",
    "model.config.embed_dim=8",
    "model.config.encoder_layers=2",
    "model.config.encoder_embed_dim=16",
    "model.config.encoder_ffn_embed_dim=16",
    "model.config.encoder_attention_heads=2",
    "model.config.encoder_layerdrop=0.3",
    "model.config.dropout=0.1",
    "model.config.conv_pos=4",
    "model.config.conv_pos_groups=2",
    "task.predictor_dim=8",
    "tokenizer.random_projection.config={codebook_size:16,embed_dim:8,codebook_dim:4}",
    "tokenizer.distilled.config.codebook_size=8",
    "tokenizer.distilled.config.codebook_dim=4",
    "tokenizer.batch_sec=2",
    f"distillation.max_steps={STEPS}",
    "distillation.schedule.warmup_steps=1",
]
FINETUNE = [
    "experiment=finetune",
    "probe=none",
    "task.schedule.warmup_steps=1",
    "data.task=toy",
    "data.batch_size=4",
    "data.balanced=true",
    "model.config={dropout:0.1,encoder_layerdrop:0.2}",
]
SPEAR = [
    "experiment=spear_from_beats",
    "data=folder",
    "probe=none",
    "data.batch_sec=2",
    "data.min_sec=0.3",
    "data.max_sec=0.7",
    "data.valid_fraction=0.2",
    "model.config.downsampling_factor=[1,2]",
    "model.config.num_encoder_layers=1",
    "model.config.encoder_dim=32",
    "model.config.encoder_unmasked_dim=16",
    "model.config.feedforward_dim=48",
    "model.config.num_heads=2",
    "model.config.cnn_module_kernel=7",
    "model.config.embed_channels=[4,4,8]",
    "tokenizer.speech.num_codebooks=2",
    "tokenizer.audio.num_codebooks=2",
    "tokenizer.speech.train={num_frames:400,batch_frames:16,phase_one_iters:3,phase_two_iters:3}",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """20 tones with noise; those of probes/toy are labelled by pitch."""
    root = tmp_path_factory.mktemp("corpus")
    folder = root / "probes" / "toy"
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("valid", 4), ("test", 4)):
        rows = ["path,label"]
        for number in range(count):
            time_sec = np.arange(6400 + 400 * number) / RATE_HZ
            pitch_hz = (300, 3000)[number % 2]
            tone = 0.3 * np.sin(2 * np.pi * pitch_hz * time_sec)
            name = f"probes/toy/{split}{number}.flac"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            signal = tone + rng.normal(0, 0.02, len(tone))
            audio.write(root / name, signal.astype(np.float32), RATE_HZ)
            rows.append(f"{name},{pitch_hz}")
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def run(train_in, corpus, tmp_path_factory):
    """``run(name, *overrides)``: a run in this process; returns its folder."""
    folder = tmp_path_factory.mktemp("runs")

    def start(name: str, *overrides: str) -> Path:
        return train_in(folder, name, *overrides, *SHORT, f"data.root={corpus}")

    return start


@pytest.fixture(scope="module")
def whole(run) -> Path:
    return run("whole", *BEATS)


def test_two_iterations_leave_their_tokenizers_and_encoders(whole, logged):
    first = hub.load_tokenizer(whole / "tokenizer_1" / "export")
    second = hub.load_tokenizer(whole / "tokenizer_2" / "export")
    assert isinstance(first, RandomProjectionTokenizer)
    assert isinstance(second, DistilledTokenizer)
    assert bool(second.codebook.initialized)
    encoders = [hub.load_encoder(whole / f"encoder_{i}" / "export") for i in (1, 2)]
    assert all(isinstance(encoder, BeatsEncoder) for encoder in encoders)
    assert hub.content_hash(encoders[0]) != hub.content_hash(encoders[1])
    made_of = json.loads((whole / "tokenizer_2" / "done.json").read_text())["parents"]
    assert made_of == {"encoder_1": hub.content_hash(encoders[0])}
    assert len(logged(whole / "encoder_2")["train/loss"]) == STEPS


def test_a_run_killed_in_two_stages_goes_on_exactly(run, whole, killed_at, logged, capsys):
    for task in (BeatsTask, DistillationTask):
        with killed_at(task, EVERY + 1):
            run("killed", *BEATS)
    killed = run("killed", *BEATS)
    assert capsys.readouterr().out.count("resuming from") == 2
    for stage in ("encoder_1", "tokenizer_2", "encoder_2"):
        assert logged(killed / stage) == logged(whole / stage), stage
        exports = [folder / stage / "export" for folder in (killed, whole)]
        assert hub.content_hash(exports[0]) == hub.content_hash(exports[1]), stage


def test_online_labels_train_alike(run, whole, logged):
    online = run("online", *BEATS, "tokens=online", "iterations=1")
    assert not (online / "tokens_1").exists()
    expected = logged(whole / "encoder_1")["train/loss"]
    assert logged(online / "encoder_1")["train/loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("overrides", "warm"), [([], True), (["changes.later.encoder.start=null"], False)]
)
def test_the_demo_starts_an_encoder_from_the_one_before(run, whole, monkeypatch, overrides, warm):
    shutil.copytree(whole, whole.with_name("start"), dirs_exist_ok=True)
    shutil.rmtree(whole.with_name("start") / "encoder_2")
    started = []
    monkeypatch.setattr(
        BeatsTask, "on_fit_start", lambda self: started.append(hub.content_hash(self.encoder))
    )
    run("start", *BEATS, *overrides)
    assert [found == hub.content_hash(whole / "encoder_1" / "export") for found in started] == [
        warm
    ]


@pytest.mark.parametrize("tokens", ["stored", "online"])
def test_spear_learns_from_an_encoder_of_ours(run, whole, corpus, tokens, logged):
    teacher = whole / "encoder_2" / "export"
    arguments = [f"teacher={teacher}", f"data.speech_root={corpus}", f"tokens={tokens}"]
    folder = run(f"spear_{tokens}", *SPEAR, *arguments)
    tokenizer = hub.load_tokenizer(folder / "speech_quantizer" / "export")
    assert hub.content_hash(tokenizer.teacher) == hub.content_hash(teacher)
    assert tokenizer.frame_rate == 6.25  # rows of 160 ms, not their eight patches one by one
    assert tokenizer.quantizer.dim == 8 * 16
    assert hub.load_encoder(folder / "student" / "export").kind == "zipformer"
    seen = logged(folder / "student")["train/loss"]
    assert len(seen) == STEPS
    assert all(np.isfinite(list(seen.values())))
    if tokens == "online":
        stored = logged(folder.with_name("spear_stored") / "student")["train/loss"]
        assert seen == pytest.approx(stored, rel=1e-5)


@pytest.fixture(scope="module")
def finetuned(run, whole) -> Path:
    return run("finetuned", *FINETUNE, f"model.source={whole}/encoder_2/export")


def test_fine_tuning_leaves_the_best_encoder_with_its_classifier_and_scores(finetuned):
    stage = finetuned / "finetune"
    results = json.loads((stage / "results.json").read_text())
    assert results["labels"] == ["300", "3000"]
    assert results["metric"] == "accuracy"
    assert 0 <= results["test"] <= 1
    assert results["step"] % EVERY == 0
    encoder = hub.load_encoder(stage / "export")
    assert isinstance(encoder, BeatsEncoder)
    assert encoder.settings.labels == ("300", "3000")
    names = {path.name for path in (stage / "checkpoints").iterdir()}
    assert names == {"best.ckpt", f"step={STEPS}.ckpt", f"step={STEPS - EVERY}.ckpt"}


def test_killed_fine_tuning_goes_on_exactly(run, whole, finetuned, killed_at, logged):
    arguments = [*FINETUNE, f"model.source={whole}/encoder_2/export"]
    with killed_at(FinetuneTask, EVERY + 1):
        run("finetune_killed", *arguments)
    killed = run("finetune_killed", *arguments)
    assert logged(killed / "finetune") == logged(finetuned / "finetune")
    results = [
        json.loads((folder / "finetune" / "results.json").read_text())
        for folder in (killed, finetuned)
    ]
    assert results[0] == results[1]


def test_several_labels_need_the_other_objective(run, whole, corpus):
    table = corpus / "probes" / "toy" / "train.csv"
    text = table.read_text()
    table.write_text(text.replace(",300\n", ",300;3000\n", 1))
    arguments = [*FINETUNE, f"model.source={whole}/encoder_2/export"]
    try:
        with pytest.raises(ValueError, match=r"data\.task=toy: .* set task\.objective=multi_label"):
            run("several", *arguments)
        folder = run("several_labels", *arguments, "task.objective=multi_label")
    finally:
        table.write_text(text)
    results = json.loads((folder / "finetune" / "results.json").read_text())
    assert results["metric"] == "mean_average_precision"


def test_a_finished_run_goes_on_with_a_classifier_for_its_teacher(run, whole, finetuned, capsys):
    """The "plus" variant: a fine-tuned encoder in the place of the one before."""
    shutil.copytree(whole, whole.with_name("plus"))
    teacher = finetuned / "finetune" / "export"
    plus = ["iterations=3", f"+changes.3.tokenizer.teacher={teacher}"]
    folder = run("plus", *BEATS, *plus, "+changes.3.encoder.start=stage:encoder_2")
    assert capsys.readouterr().out.count("done before") == 6
    tokenizer = hub.load_tokenizer(folder / "tokenizer_3" / "export")
    assert isinstance(tokenizer, DistilledTokenizer)
    assert isinstance(hub.load_encoder(folder / "encoder_3" / "export"), BeatsEncoder)
    made_of = [
        json.loads((folder / stage / "export" / "config.json").read_text())["provenance"]
        for stage in ("tokenizer_3", "encoder_3")
    ]
    assert made_of[0]["exports"] == {str(teacher): hub.content_hash(teacher)}
    assert made_of[1]["parents"] == {
        "encoder_2": hub.content_hash(folder / "encoder_2" / "export"),
        "tokenizer_3": hub.content_hash(tokenizer),
    }


@pytest.mark.ddp
def test_two_ranks_killed_and_resumed_are_one_with_twice_the_micro_batches(run, corpus, tmp_path):
    places = [f"paths.runs={tmp_path}", f"paths.cache={tmp_path}/cache", f"data.root={corpus}"]
    arguments = [*BEATS, *SHORT, *places, "name=ranks", "trainer=ddp_cpu"]
    folder = tmp_path / "ranks"

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *arguments],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    process = start()
    deadline = time.monotonic() + TIMEOUT_SEC
    while not (folder / "encoder_1" / "checkpoints" / f"step={EVERY}.ckpt").exists():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "encoder_1" / "done.json").exists()
    process = start()
    try:
        output, errors = process.communicate(timeout=TIMEOUT_SEC)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors[-3000:]
    assert "resuming from" in output
    assert hub.load_encoder(folder / "encoder_2" / "export").kind == "beats"

    alone = run("alone", *BEATS, "iterations=1", "trainer.accumulate_grad_batches=2")
    first, second = (
        hub.load_encoder(path / "encoder_1" / "export").state_dict() for path in (folder, alone)
    )
    for name, x in first.items():
        # A bias of the keys changes no attention: its gradient is rounding, which Adam magnifies.
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(x, second[name], atol=1e-5, rtol=1e-4, msg=name)
