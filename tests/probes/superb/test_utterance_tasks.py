from __future__ import annotations

from collections import Counter

import pytest

from ssl_audio.probes.superb.task import Recipe, Settings
from ssl_audio.probes.superb.utterance_tasks import (
    EmotionRecognition,
    IntentClassification,
    KeywordSpotting,
    SpeakerIdentification,
    _split_of,
)

KS = {"train": "speech_commands_v0.01", "test": "speech_commands_test_set_v0.01"}
KS |= {"train_silences": 4, "valid_silences": 2}


def recipe(**changes) -> Recipe:
    quick = {"lrs": [1e-1, 1e-2], "steps": 40, "eval_every": 20, "hidden": 8}
    return Recipe.of({"folder": ".", **quick, **changes})


def labels(utterances) -> Counter:
    return Counter(utterance.target for utterance in utterances)


def test_keywords(keywords, tmp_path, layers):
    task = KeywordSpotting(keywords(tmp_path), recipe(**KS), seed=0)
    (fold,) = task.folds
    wanted = {("yes",): 3, ("no",): 3, ("_unknown_",): 3}
    assert labels(fold.train) == wanted | {("_silence_",): 4}
    assert labels(fold.valid) == wanted | {("_silence_",): 2}
    assert labels(fold.test) == {("yes",): 2, ("no",): 2, ("_unknown_",): 2, ("_silence_",): 1}
    silences = [u for u in (*fold.train, *fold.valid) if u.target == ("_silence_",)]
    assert {u.duration_sec for u in silences} == {1.0}
    assert len({u.start_sec for u in silences}) == 6
    assert all(0 <= u.start_sec <= 2.0 for u in silences)
    used = {u.path.name for split in (fold.train, fold.valid) for u in split} - {"hum.wav"}
    assert {_split_of(name) for name in used} == {"train", "valid"}
    result = task.run(layers, Settings())
    assert result.warnings == []
    assert result.folds[0].scores["acc"] > 0.8
    assert sum(result.folds[0].layer_weights.values()) == pytest.approx(1)


def test_the_split_of_the_corpus_readme():
    # Its own function on these names (Speech Commands README, "which_set").
    assert [_split_of(f"{name}_nohash_0.wav") for name in ("0a7c2a8d", "00f0204f", "bad")] == [
        _split_of(f"{name}_nohash_7.wav") for name in ("0a7c2a8d", "00f0204f", "bad")
    ]
    shares = Counter(_split_of(f"{i:08x}_nohash_0.wav") for i in range(2000))
    assert shares["valid"] == pytest.approx(200, abs=45)
    assert shares["left out"] == pytest.approx(200, abs=45)


def test_intents_count_when_all_slots_are_right(commands, tmp_path, layers):
    task = IntentClassification(commands(tmp_path), recipe(), seed=0)
    (fold,) = task.folds
    assert fold.train[1].target == ("on", "lamp", "none")
    assert [len(split) for split in fold] == [12, 6, 6]
    result = task.run(layers, Settings())
    assert result.folds[0].scores["acc"] == 1.0
    assert {row["lr"] for row in result.folds[0].grid} == {1e-1, 1e-2}
    assert result.folds[0].chosen["lr"] in (1e-1, 1e-2)


def test_emotions_by_session(emotions, tmp_path, layers):
    task = EmotionRecognition(emotions(tmp_path), recipe(sessions=2, valid_share=0.2), seed=0)
    assert len(task.folds) == 2
    for number, fold in enumerate(task.folds):
        assert {u.id[:5] for u in fold.test} == {f"Ses0{number + 1}"}
        assert {u.id[:5] for u in (*fold.train, *fold.valid)} == {f"Ses0{2 - number}"}
        assert (len(fold.train), len(fold.valid), len(fold.test)) == (16, 4, 20)
        assert labels(fold.test)[("happy",)] == 8  # happy and excited
    result = task.run(layers, Settings())
    assert len(result.folds) == 2


def test_speakers(speakers, tmp_path, layers):
    task = SpeakerIdentification(speakers(tmp_path), recipe(max_train_sec=0.45), seed=0)
    (fold,) = task.folds
    assert [len(split) for split in fold] == [30, 10, 10]
    assert {u.max_sec for u in fold.train} == {0.45}
    assert {u.max_sec for u in (*fold.valid, *fold.test)} == {None}
    assert fold.test[0].target == ("id10001",)
    assert task.run(layers, Settings()).folds[0].num_train == 30


def test_missing_data_are_named(keywords, commands, emotions, speakers, tmp_path):
    with pytest.raises(ValueError, match=r"speech_commands_v0.01 is missing; unpack"):
        KeywordSpotting(tmp_path, recipe(**KS), 0)
    with pytest.raises(ValueError, match=r"train_data.csv is missing"):
        IntentClassification(tmp_path, recipe(), 0)
    with pytest.raises(ValueError, match=r"Session1 is missing"):
        EmotionRecognition(tmp_path, recipe(sessions=1, valid_share=0.2), 0)
    with pytest.raises(ValueError, match=r"iden_split.txt is missing"):
        SpeakerIdentification(tmp_path, recipe(max_train_sec=8), 0)
    (tmp_path / "iden_split.txt").write_text("1 id1/a/b.wav")
    with pytest.raises(ValueError, match=r"has no dev/wav/ID/VIDEO/CLIP.wav"):
        SpeakerIdentification(tmp_path, recipe(max_train_sec=8), 0)
    root = commands(tmp_path)
    table = root / "data" / "valid_data.csv"
    table.write_text(table.read_text().replace("location", "place"))
    with pytest.raises(ValueError, match=r"valid_data.csv: no column 'location'"):
        IntentClassification(root, recipe(), 0)


def test_one_class_and_files_that_cannot_be_read(commands, tmp_path, layers):
    root = commands(tmp_path)
    table = root / "data" / "test_data.csv"
    table.write_text(table.read_text().replace("lamp", "oven"))
    broken = root / "wavs/speakers/test/2.wav"
    broken.write_text("broken")
    result = IntentClassification(root, recipe(), 0).run(layers, Settings())
    assert result.folds[0].num_test == 5
    assert result.folds[0].scores["acc"] == pytest.approx(1 / 5)  # a label of test is unknown
    assert len(result.warnings) == 1
    assert str(broken) in result.warnings[0]
    for name in ("train", "valid", "test"):
        path = root / "data" / f"{name}_data.csv"
        text = path.read_text().replace(",off,", ",on,").replace("oven", "lamp")
        path.write_text(text.replace(",music,", ",lamp,"))
    with pytest.raises(ValueError, match=r"split 'train' has only one class, 'on'"):
        IntentClassification(root, recipe(), 0).run(layers, Settings())
