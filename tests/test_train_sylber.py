"""HuBERT, SD-HuBERT and Sylber through ``train.py`` on a tiny corpus: whole, killed, resumed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_audio import audio, hub
from ssl_audio.checkpoints import read_checkpoint
from ssl_audio.models import HubertEncoder
from ssl_audio.models.sdhubert import SdHubertEncoder
from ssl_audio.stages.common import build_encoder, seeded
from ssl_audio.tasks.hubert import HubertTask
from ssl_audio.tasks.sdhubert import SdHubertTask
from ssl_audio.tasks.sylber import SylberTask
from ssl_audio.tokenizers import KMeansTokenizer, SyllableTokenizer

pytestmark = pytest.mark.filterwarnings("ignore")

RATE_HZ = 16_000
STEPS, EVERY = 4, 2
SHORT = [
    "data=folder",
    "data.batch_sec=3",
    "data.min_sec=0.3",
    "data.max_sec=1.0",
    "data.valid_fraction=0.2",
    "data.num_workers=0",
    "probe=none",
    "callbacks.probes=null",
    f"trainer.val_check_interval={EVERY}",
    "trainer.log_every_n_steps=1",
    "+trainer.enable_progress_bar=false",
    "trainer.enable_model_summary=false",
]
SIZES = [
    "hidden_size=16",
    "num_hidden_layers=3",
    "num_attention_heads=2",
    "intermediate_size=16",
    "conv_dim=[4,4,4,4,4,4,8]",
    "num_conv_pos_embeddings=4",
    "num_conv_pos_embedding_groups=2",
]
SDHUBERT = [f"max_steps={STEPS}", "head.inner_dim=8", "head.num_classes=8"]
SYLBER = [
    "experiment=sylber",
    "segments=min_cut",
    "stages.segmentation=null",
    *(f"hubert.model.config.{size}" for size in SIZES),
    *(f"hubert.tokenizer.{part}.num_units=6" for part in ("first", "later")),
    "hubert.tokenizer.later.layer=2",
    f"hubert.task.max_steps={STEPS}",
    f"hubert.changes.later.hubert.task.max_steps={STEPS}",
    "hubert.task.schedule.warmup_steps=1",
    *(f"sdhubert.{value}" for value in SDHUBERT),
    "model.config.num_hidden_layers=2",
    "tokenizer.feature_layer=1",
    "tokenizer.norm_layer=2",
    f"stage_1.max_steps={STEPS}",
    "stage_1.schedule.warmup_steps=1",
    f"task.max_steps={STEPS}",
    "units.stage.num_units=3",
    "units.stage.batch_segments=10",
]
TRAINED = ["hubert_1", "hubert_2", "sdhubert", "stage_1", "stage_2"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """16 recordings of bursts with pauses between them."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for number in range(16):
        bursts = [np.zeros(1600)]
        for _ in range(3):
            time_sec = np.arange(rng.integers(2400, 4800)) / RATE_HZ
            bursts += [0.3 * np.sin(2 * np.pi * rng.uniform(200, 3000) * time_sec), np.zeros(800)]
        signal = np.concatenate(bursts) + rng.normal(0, 0.003, sum(map(len, bursts)))
        audio.write(root / f"{number}.flac", signal.astype(np.float32), RATE_HZ)
    return root


@pytest.fixture(scope="module")
def run(train_in, corpus, tmp_path_factory):
    """``run(name, *overrides)``: a run in this process; returns its folder."""
    folder = tmp_path_factory.mktemp("runs")

    def start(name: str, *overrides: str) -> Path:
        return train_in(folder, name, *overrides, *SHORT, f"data.speech_root={corpus}")

    return start


@pytest.fixture(scope="module")
def whole(run) -> Path:
    return run("whole", *SYLBER)


def test_every_stage_leaves_what_the_next_one_needs(whole, logged):
    first, second = (hub.load_tokenizer(whole / f"units_{i}" / "export") for i in (1, 2))
    assert isinstance(first, KMeansTokenizer)
    assert isinstance(second, KMeansTokenizer)
    assert (first.teacher.kind, first.teacher.embed_dim, first.codebook_size) == ("mfcc", 39, 6)
    assert (second.teacher.kind, second.layer) == ("hubert", 2)
    sdhubert = hub.load_encoder(whole / "sdhubert" / "export")
    assert isinstance(sdhubert, SdHubertEncoder)
    assert sdhubert.num_layers == 3
    assert hub.load_tokenizer(whole / "segments" / "export").kind == "min_cut"
    for stage in ("stage_1", "stage_2"):
        encoder = hub.load_encoder(whole / stage / "export")
        assert type(encoder) is HubertEncoder
        assert encoder.num_layers == 2
    assert isinstance(hub.load_tokenizer(whole / "units" / "export"), SyllableTokenizer)
    for stage in TRAINED:
        assert len(logged(whole / stage)["train/loss"]) == STEPS, stage
    made_of = json.loads((whole / "stage_2" / "done.json").read_text())["parents"]
    assert made_of == {"stage_1": hub.content_hash(whole / "stage_1" / "export")}


def test_the_statistics_of_norms_are_fitted_to_stage_1(whole):
    newest = read_checkpoint(whole / "stage_2" / "checkpoints" / f"step={STEPS}.ckpt")
    state = newest["state_dict"]
    noise, signal = (state[f"norm_threshold.{name}_mean"] for name in ("noise", "signal"))
    assert torch.isfinite(noise)
    assert noise < signal


def test_a_run_killed_in_every_method_goes_on_exactly(run, whole, killed_at, logged, capsys):
    for task in (HubertTask, SdHubertTask, SylberTask):
        with killed_at(task, EVERY + 1):
            run("killed", *SYLBER)
    with killed_at(SylberTask, EVERY + 1):  # stage 1 is resumed past it, stage 2 is not
        run("killed", *SYLBER)
    killed = run("killed", *SYLBER)
    assert capsys.readouterr().out.count("resuming from") == 4
    for stage in TRAINED:
        assert logged(killed / stage) == logged(whole / stage), stage
        exports = [folder / stage / "export" for folder in (killed, whole)]
        assert hub.content_hash(exports[0]) == hub.content_hash(exports[1]), stage


def test_hubert_alone_is_the_same(run, whole, logged):
    alone = run(
        "hubert",
        "experiment=hubert",
        *(f"model.config.{size}" for size in SIZES),
        *(f"tokenizer.{part}.num_units=6" for part in ("first", "later")),
        "tokenizer.later.layer=2",
        f"task.max_steps={STEPS}",
        f"changes.later.hubert.task.max_steps={STEPS}",
        "task.schedule.warmup_steps=1",
    )
    assert logged(alone / "hubert_2")["train/loss"] == logged(whole / "hubert_2")["train/loss"]


def test_sdhubert_starts_from_an_export(run, whole):
    sizes = [*(f"task.{value}" for value in SDHUBERT), "experiment=sdhubert"]
    export = whole / "hubert_2" / "export"
    ours = run("sdhubert", *sizes, f"model.source={export}")
    hubert, sdhubert = (hub.load_encoder(path) for path in (export, ours / "sdhubert" / "export"))
    kept = "feature_extractor.conv_layers.0.conv.weight"  # the convolutions are not trained
    assert torch.equal(hubert.state_dict()[kept], sdhubert.state_dict()[kept])


def test_a_folder_of_transformers_is_a_start(whole, tmp_path):
    transformers = pytest.importorskip("transformers")
    export = whole / "hubert_2" / "export"
    hubert = hub.load_encoder(export)
    official = transformers.HubertModel(transformers.HubertConfig(**hubert.config))
    official.load_state_dict(hubert.state_dict())
    official.save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    model = {"kind": "sdhubert", "config": {"hidden_dropout": 0.0}}
    with seeded(0):
        ours = build_encoder(model, str(export))
    with seeded(0):
        theirs = build_encoder(model, str(tmp_path))
    assert theirs.config == ours.config
    for name, x in theirs.state_dict().items():
        assert name == "cls_token" or torch.equal(x, ours.state_dict()[name]), name


def test_what_is_no_hubert_is_refused_in_one_line(run, whole, tmp_path):
    hub.save(hub.load_tokenizer(whole / "units_1" / "export").teacher, tmp_path)
    with pytest.raises(ValueError, match="kind 'mfcc'; this method starts from a HuBERT"):
        run("refused", "experiment=sdhubert", f"model.source={tmp_path}")
    deeper = ["experiment=sylber_from_sdhubert", f"source={whole}/sdhubert/export"]
    with pytest.raises(ValueError, match="missing"):
        run("deeper", *deeper, "model.config.num_hidden_layers=4", "tokenizer.norm_layer=3")
