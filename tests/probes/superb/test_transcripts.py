"""Transcribed corpora in their original folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl_audio.probes.superb import transcripts


def test_librispeech_letters_and_phones(tmp_path: Path) -> None:
    folder = tmp_path / "dev-clean" / "84" / "121123"
    folder.mkdir(parents=True)
    (folder / "84-121123.trans.txt").write_text("84-121123-0000 GO ON\n84-121123-0001 GO AWAY\n")
    texts = transcripts.read_librispeech(tmp_path, "dev-clean")
    assert [path.name for path in texts] == ["84-121123-0000.flac", "84-121123-0001.flac"]
    assert transcripts.letters(texts).utterances[0].target == ("G", "O", " ", "O", "N", " ")

    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("GO\tG OW1\nGO G AO1\nON AA1 N\n")
    second.write_text("ON AO1 N\n")
    split = transcripts.phones(texts, transcripts.read_lexicon([first, second]))
    assert [utterance.target for utterance in split.utterances] == [("G", "OW1", "AA1", "N")]
    assert split.warnings == (
        "1 of 2 utterances left out: the lexicon lacks 1 words, 'AWAY' among them",
    )


def test_librispeech_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unpack train-clean-100.tar.gz"):
        transcripts.read_librispeech(tmp_path, "train-clean-100")
    with pytest.raises(ValueError, match="librispeech-lexicon"):
        transcripts.read_lexicon([])


@pytest.mark.parametrize(
    ("language", "text", "want"),
    [
        ("es", "¡Hola, ¿qué  tal?", "HOLA QUÉ TAL"),
        ("es", "el niño’s", "EL NIÑO'S"),
        ("zh-CN", "你好，世 界。", "你好世界"),
        ("zh-CN", "我用 iPhone", ""),
        ("ar", "مرحبا OK", ""),
    ],
)
def test_normalised_sentences(language: str, text: str, want: str) -> None:
    assert transcripts.normalised_sentence(text, language) == want


def test_common_voice_keeps_an_accent(tmp_path: Path) -> None:
    (tmp_path / "dev.tsv").write_text(
        'client_id\tpath\tsentence\taccent\nx\ta.mp3\tDijo "sí"\tmexicano\nx\tb.mp3\tNo\tandino\n'
    )
    split = transcripts.read_common_voice(tmp_path, "dev", "es", "mexicano")
    (utterance,) = split.utterances
    assert utterance.path == tmp_path / "clips" / "a.mp3"
    assert utterance.target == tuple("DIJO SÍ")
    with pytest.raises(ValueError, match=r"train.tsv is missing"):
        transcripts.read_common_voice(tmp_path, "train", "es")
    (tmp_path / "test.tsv").write_text("path\ttext\na.mp3\thi\n")
    with pytest.raises(ValueError, match="columns path, sentence"):
        transcripts.read_common_voice(tmp_path, "test", "es")


def test_snips_slots(tmp_path: Path) -> None:
    (tmp_path / "all.iob.snips.txt").write_text(
        "Ivy-1 BOS play new york jazz & now ! EOS\tO O city city genre O O O music\n"
        "Joey-1 BOS stop EOS\tO O intent\n"
        "Amy-1 BOS go EOS\tO O intent\n"
    )
    (tmp_path / "slots.txt").write_text("O\ncity\ngenre\n")
    (tmp_path / "train").mkdir()
    for name in ("Ivy-1", "Joey-1", "Joey-2", "Amy-1"):
        (tmp_path / "train" / f"{name}.wav").touch()
    split = transcripts.read_snips(tmp_path, "train", ["Ivy", "Joey"])
    spelled = ["".join(utterance.target) for utterance in split.utterances]
    assert spelled == ["PLAY B-city NEW YORK E-city B-genre JAZZ E-genre AND NOW", "STOP"]
    assert split.warnings == ("1 of 3 utterances of train have no labels",)
    slots = transcripts.read_slots(tmp_path)
    assert slots == ("B-city ", " E-city", "B-genre ", " E-genre")
    assert set(slots) < set(split.utterances[0].target)
    with pytest.raises(ValueError, match=r"no labelled \.wav of Ivy"):
        transcripts.read_snips(tmp_path, "valid", ["Ivy"])
