"""Spoken queries in documents, in QUESST's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssl_audio import audio
from ssl_audio.probes.sources import EncoderLayers
from ssl_audio.probes.superb.layers import LayerStack
from ssl_audio.probes.superb.query_by_example import QueryByExample
from ssl_audio.probes.superb.quesst import read_quesst
from ssl_audio.probes.superb.task import Recipe, Settings

WORDS = {"aba": (300, 700, 300), "cab": (1500, 300, 700), "bcc": (700, 1500, 2500)}


def spoken(word: str, rng: np.random.Generator) -> np.ndarray:
    time = np.arange(1600) / 16_000
    tones = [np.sin(2 * np.pi * tone * rng.uniform(0.98, 1.02) * time) for tone in WORDS[word]]
    samples = 0.5 * np.concatenate(tones)
    return (samples + 0.01 * rng.standard_normal(len(samples))).astype(np.float32)


def write_quesst(root: Path) -> None:
    rng = np.random.default_rng(0)
    scoring = root / "scoring"
    lists: dict[str, list[str]] = {"utterances": [], "dev": [], "eval": []}
    for folder in ("Audio", "dev_queries", "eval_queries", "scoring"):
        (root / folder).mkdir(parents=True)
    held: dict[str, list[str]] = {word: [] for word in WORDS}
    for number in range(6):
        said = list(rng.permutation(list(WORDS))[:2])
        name = f"quesst14_{number:05d}"
        samples = np.concatenate([spoken(word, rng) for word in said])
        audio.write(root / "Audio" / f"{name}.wav", samples, 16_000)
        lists["utterances"].append(f"quesst14Database/Audio/{name}.wav nnenglish")
        for word in said:
            held[word].append(name)
    lists["utterances"] += ["quesst14Database/Audio/other.wav basque"] * 4
    for split in ("dev", "eval"):
        truth = ["SPKR-INFO quesst14_00000 1 <NA> <NA> <NA> unknown spk <NA>"]
        for number, word in enumerate(WORDS):
            name = f"quesst14_{split}_{number:04d}"
            audio.write(root / f"{split}_queries" / f"{name}.wav", spoken(word, rng), 16_000)
            lists[split].append(f"quesst14Database/{split}_queries/{name}.wav nnenglish")
            truth.append(f"LEXEME other 1 0.1 0.3 quesst14_{split}_1{number:03d} lex spk 0.5")
            truth += [f"LEXEME {d} 1 0.10 0.30 {name} lex spk 0.5" for d in held[word]]
        folder = scoring / f"groundtruth_quesst14_{split}"
        folder.mkdir()
        (folder / f"quesst14_{split}.rttm").write_text("\n".join(truth))
    for name, lines in lists.items():
        (scoring / f"language_key_{name}.lst").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def quesst(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("quesst14Database")
    write_quesst(root)
    return root


def test_the_folder_is_read(quesst: Path) -> None:
    split = read_quesst(quesst, "dev")
    assert [path.name for path in split.queries] == [f"quesst14_dev_000{i}.wav" for i in range(3)]
    assert (len(split.documents), split.num_documents) == (6, 10)
    assert all(path.is_file() for path in (*split.queries, *split.documents))
    assert sum(len(split.matches[path.stem]) for path in split.queries) == 12
    assert len(split.matches) == 6
    with pytest.raises(ValueError, match=r"unpack quesst14Database\.tgz"):
        read_quesst(quesst / "nowhere", "dev")


def test_queries_are_found(quesst: Path, tiny_encoder) -> None:
    recipe = Recipe("", options={"false_alarm_weight": 12.49})
    task = QueryByExample(quesst, recipe, 0)
    result = task.run(LayerStack(EncoderLayers(tiny_encoder)), Settings())
    (fold,) = result.folds
    assert not result.warnings
    assert 0.2 < fold.scores["mtwv"] <= 0.5  # half of the queries are of another language
    assert [row["layer"] for row in fold.grid] == ["0", "1", "2", "output"]
    best = max(fold.grid, key=lambda row: row["validation"])
    assert fold.chosen["layer"] == best["layer"]
    assert fold.interval[0] <= fold.scores["mtwv"] <= fold.interval[1]
    again = task.run(LayerStack(EncoderLayers(tiny_encoder)), Settings(batch_sec=0.1))
    assert again.folds[0].scores["mtwv"] == pytest.approx(fold.scores["mtwv"])


def test_a_file_that_is_gone_is_named(quesst: Path, tmp_path: Path, tiny_encoder) -> None:
    root = tmp_path / "copy"
    write_quesst(root)
    (root / "Audio" / "quesst14_00003.wav").unlink()
    task = QueryByExample(root, Recipe("", options={"false_alarm_weight": 12.49}), 0)
    result = task.run(LayerStack(EncoderLayers(tiny_encoder)), Settings())
    assert len(result.warnings) == 1
    assert "quesst14_00003.wav: no such file" in result.warnings[0]
