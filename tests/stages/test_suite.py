from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from ssl_audio import audio, hub
from ssl_audio.config import CONFIG_DIR
from ssl_audio.models.spectral import MfccEncoder
from ssl_audio.pipeline import RunContext
from ssl_audio.stages.suite import SuiteStage


def section(name: str, root: Path, **options) -> dict:
    config = yaml.safe_load((CONFIG_DIR / "probe" / f"{name}.yaml").read_text())
    stage = config["stage"]
    assert stage["_target_"] == "ssl_audio.stages.suite.SuiteStage"
    target = stage["tasks"]["_target_"]
    return {"_target_": target, "root": str(root), "table": config["table"], **options}


@pytest.fixture
def hear(tmp_path):
    """HEAR's beijing_opera with two instruments."""
    root = tmp_path / "hear" / "beijing_opera-v1.0-hear2021-full"
    for split in ("train", "valid", "test"):
        rows = {}
        for number in range(6):
            time = np.arange(4800) / 16_000
            wave = 0.3 * np.sin(2 * np.pi * (400 + 1000 * (number % 2)) * time)
            audio.write(root / "16000" / split / f"{number}.wav", wave.astype("f4"), 16_000)
            rows[f"{number}.wav"] = ["ab"[number % 2]]
        (root / f"{split}.json").write_text(json.dumps(rows))
    (root / "labelvocabulary.csv").write_text("idx,label\n0,a\n1,b\n")
    metadata = {
        "embedding_type": "scene",
        "prediction_type": "multiclass",
        "evaluation": ["top1_acc"],
        "evaluation_params": {
            "task_specific_param_grid": {"max_epochs": [6], "check_val_every_n_epoch": [3]}
        },
    }
    (root / "task_metadata.json").write_text(json.dumps(metadata))
    return root.parent


def test_results_of_a_finished_encoder(hear, tmp_path):
    model = str(hub.save(MfccEncoder(), tmp_path / "model"))
    stage = SuiteStage(model, section("hear", hear, cache_dir=str(tmp_path / "cache")), seed=3)
    stage.run(tmp_path / "stage", RunContext(tmp_path))
    results = json.loads((tmp_path / "stage" / "results.json").read_text())
    assert set(results["scores"]) == {"trained", "untrained", "log-mel"}
    (record,) = results["scores"]["log-mel"].values()
    assert record["value"] == 1.0
    assert results["failed"] == []
    assert len(results["absent"]) == 19  # folders of the table's tasks
    assert (
        "| beijing_opera-v1.0-hear2021-full | top1_acc |"
        in (tmp_path / "stage" / "results.md").read_text()
    )


@pytest.mark.parametrize("name", ["superb", "xares", "hear"])
def test_a_folder_that_is_not_there_ends_before_the_training(name, tmp_path):
    with pytest.raises(ValueError, match="does not exist; give the folder with"):
        SuiteStage("stage:student", section(name, tmp_path / "nothing"), seed=0)
