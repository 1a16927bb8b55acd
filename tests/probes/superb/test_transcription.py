"""CTC tasks: they learn, decode, count, and say what is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ssl_audio import audio
from ssl_audio.probes.sources import EncoderLayers
from ssl_audio.probes.superb.frame_task import Batch
from ssl_audio.probes.superb.layers import LayerStack
from ssl_audio.probes.superb.task import Recipe, Settings
from ssl_audio.probes.superb.transcription import (
    Decoded,
    OutOfDomainRecognition,
    PhonemeRecognition,
    SlotFilling,
    SpeechRecognition,
)

LSTM = {"hidden": 24, "layers": 1, "dropout": 0.0}
AUGMENT = {"warp": 2, "time_masks": 1, "max_frames": 2, "channel_masks": 1, "max_channels": 3}
MODULE = "ssl_audio.probes.superb.transcription"
BEAM = {
    "lm": "4-gram.arpa",
    "lexicon": "librispeech_lexicon.lst",
    "size": 5,
    "threshold": 25,
    "lm_weight": 2,
    "word_score": -1,
}
LIBRISPEECH = {"train": "train-clean-100", "valid": "dev-clean", "test": "test-clean"}
TONES = {"A": 300.0, "B": 700.0, "C": 1500.0}
SETTINGS = Settings()


def spoken(letters: str, rng: np.random.Generator) -> np.ndarray:
    """A tone for each letter, silence for a space."""
    parts = []
    for letter in letters:
        time = np.arange(round(rng.uniform(0.12, 0.16) * 16_000)) / 16_000
        tone = 0.5 * np.sin(2 * np.pi * TONES[letter] * time) if letter in TONES else 0 * time
        parts += [tone, np.zeros(640)]
    samples = np.concatenate(parts)
    return (samples + 0.002 * rng.standard_normal(len(samples))).astype(np.float32)


def write_librispeech(root: Path, counts: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(0)
    for part, count in zip(LIBRISPEECH.values(), counts, strict=True):
        folder = root / part / "1" / "2"
        folder.mkdir(parents=True)
        lines = []
        for number in range(count):
            text = " ".join("".join(rng.choice(list(TONES), 2)) for _ in range(2))
            name = f"1-2-{number:04d}"
            audio.write(folder / f"{name}.flac", spoken(text, rng), 16_000)
            lines.append(f"{name} {text}")
        (folder / "1-2.trans.txt").write_text("\n".join(lines))
    words = [f"{a}{b}" for a in TONES for b in TONES]
    phones = {"A": "AA1", "B": "B", "C": "CH"}
    lexicon = [f"{word}\t{' '.join(phones[letter] for letter in word)}" for word in words]
    (root / "lexicon.txt").write_text("\n".join(lexicon))


def recipe(steps: int, lr: float, **options: Any) -> Recipe:
    return Recipe("", (lr,), steps, steps, batch_size=8, options=options)


@pytest.fixture(scope="module")
def librispeech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("LibriSpeech")
    write_librispeech(root, (24, 4, 8))
    return root


def test_phones_are_learnt(librispeech: Path, tiny_encoder) -> None:
    options = {**LIBRISPEECH, "lexicon": ["absent.txt", "lexicon.txt"], "hidden": 16}
    task = PhonemeRecognition(librispeech, recipe(40, 1e-1, **options), 0)
    result = task.run(LayerStack(EncoderLayers(tiny_encoder)), SETTINGS)
    (fold,) = result.folds
    assert fold.scores["per"] < 0.6
    assert fold.interval[0] <= fold.scores["per"] <= fold.interval[1]
    assert fold.num_train == 24
    assert fold.num_test == 8


def test_words_and_characters_are_scored(librispeech: Path, tiny_encoder) -> None:
    options = {**LIBRISPEECH, "beam": BEAM, "lstm": LSTM, "spec_augment": AUGMENT}
    task = SpeechRecognition(librispeech, recipe(2, 1e-3, **options), 0)
    layers = LayerStack(EncoderLayers(tiny_encoder))
    (fold,) = task.run(layers, SETTINGS).folds
    assert fold.scores["wer"] >= 1.0  # nothing is learnt in two steps
    assert fold.scores["cer"] > 0.5
    assert task.run(layers, SETTINGS).folds == [fold]


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unpack train-clean-100\.tar\.gz"):
        SpeechRecognition(tmp_path, recipe(1, 1e-3, **LIBRISPEECH, beam=BEAM), 0)
    write_librispeech(tmp_path, (1, 1, 1))
    (tmp_path / "lexicon.txt").write_text("ZZ Z Z\n")
    with pytest.raises(ValueError, match="no utterance of train can be used; 1 of 1 utterances"):
        PhonemeRecognition(tmp_path, recipe(1, 1e-3, **LIBRISPEECH, lexicon=["lexicon.txt"]), 0)


def test_batches_hold_neighbours_in_length_and_halve_long_ones(
    librispeech: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = SpeechRecognition(librispeech, recipe(1, 1e-3, **LIBRISPEECH, beam=BEAM), 0)
    lengths = [audio.info(u.path).num_samples for u in task.splits["train"]]
    ranks = np.argsort(np.argsort([-n for n in lengths], kind="stable"))
    batches = task.train_batches(0)
    assert [len(batch) for batch in batches] == [8] * 3
    for batch in batches:
        assert sorted(ranks[list(batch)]) == list(
            range(min(ranks[list(batch)]), max(ranks[list(batch)]) + 1)
        )
    assert batches == task.train_batches(0)
    assert batches != task.train_batches(1)
    monkeypatch.setattr(f"{MODULE}.HALVED_SAMPLES", sorted(lengths)[12])
    halved = {len(batch) for epoch in range(4) for batch in task.train_batches(epoch)}
    assert halved == {4, 8}


def test_ctc_loss_ignores_padding_and_targets_that_do_not_fit(librispeech: Path) -> None:
    torch.manual_seed(0)
    task = SpeechRecognition(librispeech, recipe(1, 1e-3, **LIBRISPEECH, beam=BEAM), 0)
    two = tuple(task.splits["train"][:2])
    batch = Batch(two, torch.zeros(2, 1), torch.ones(2))
    head, outputs, lengths = torch.nn.Identity(), torch.randn(2, 40, 31), torch.tensor([40, 30])
    padded = outputs.clone()
    padded[1, 30:] = 9.0
    loss = task.loss(head, outputs, lengths, batch)
    assert torch.equal(loss, task.loss(head, padded, lengths, batch))
    alone = [
        task.loss(head, outputs[i : i + 1], lengths[i : i + 1], Batch(two[i : i + 1], *batch_of()))
        for i in range(2)
    ]
    torch.testing.assert_close(loss, torch.stack(alone).mean())
    short = task.loss(head, outputs, torch.tensor([2, 2]), batch)
    assert short.item() == 0.0


def batch_of() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(1, 1), torch.ones(1)


def test_slots_are_counted(tmp_path: Path) -> None:
    (tmp_path / "slots.txt").write_text("O\ncity\n")
    (tmp_path / "all.iob.snips.txt").write_text(
        "Ivy-1 BOS in new york EOS\tO O city city O\nAmy-1 BOS go EOS\tO O O\n"
    )
    for split in ("train", "valid", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "Ivy-1.wav").touch()
        (tmp_path / split / "Amy-1.wav").touch()
    speakers = {"train_speakers": ["Ivy"], "valid_speakers": ["Amy"], "test_speakers": ["Ivy"]}
    task = SlotFilling(tmp_path, recipe(1, 1e-3, **speakers), 0)
    (said,) = task.splits["test"]
    right = task.counts(said, Decoded("IN B-city NEW YORK E-city"), None)
    assert right["slot_type_f1"] == (1.0, 1.0)
    assert right["slot_value_cer"] == (0.0, 8.0)
    assert right["wer"] == (0.0, 5.0)
    wrong = task.counts(said, Decoded("IN B-city NEW FORK E-city"), None)
    assert wrong["slot_value_cer"] == (1.0, 8.0)
    assert task.counts(said, Decoded(""), None)["slot_type_f1"] == (0.0, 1.0)


def test_other_languages_take_their_characters_from_training(tmp_path: Path) -> None:
    for split, text in (("train", "Sí señor"), ("dev", "Sí"), ("test", "Żar")):
        (tmp_path / f"{split}.tsv").write_text(f"path\tsentence\taccent\na.mp3\t{text}\tmexicano\n")
    options = {"language": "es", "accent": "mexicano", "lstm": LSTM, "spec_augment": AUGMENT}
    task = OutOfDomainRecognition(tmp_path, recipe(1, 1e-3, **options), 0)
    assert task.vocabulary.symbols == (" ", "E", "O", "R", "S", "Í", "Ñ")
    counted = task.counts(task.splits["test"][0], Decoded("<unk>AR"), None)
    assert counted["cer"][0] == 5  # A is not in training either
    frames, lengths = torch.randn(1, 10, 6), torch.tensor([10])
    assert task.head(6, 50.0)(frames, lengths)[0].shape == (1, 10, 10)
    assert task.head(6, 100.0)(frames, lengths)[0].shape == (1, 5, 10)


def write_language(folder: Path) -> None:
    (folder / "4-gram.arpa").write_text(
        "\\data\\\nngram 1=5\nngram 2=1\n\n"
        "\\1-grams:\n-2\t<unk>\n-99\t<s>\t-0.1\n-0.5\t</s>\n-0.1\tAB\t-0.1\n-3\tBA\t-0.1\n\n"
        "\\2-grams:\n-0.1\t<s> AB\n\n\\end\\\n"
    )
    (folder / "librispeech_lexicon.lst").write_text("AB A B |\nBA B A |\n")


def test_beam_search_scores_test_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_librispeech(tmp_path, (2, 1, 1))
    absent = SpeechRecognition(tmp_path, recipe(1, 1e-3, **LIBRISPEECH, beam=BEAM), 0)
    assert absent.search is None
    assert not absent.warnings

    write_language(tmp_path)
    monkeypatch.setattr(f"{MODULE}.flashlight_is_there", lambda: False)
    without = SpeechRecognition(tmp_path, recipe(1, 1e-3, **LIBRISPEECH, beam=BEAM), 0)
    assert without.search is None
    assert "flashlight-text is not installed" in without.warnings[0]

    # As flashlight would, on the symbols and frames that it is given.
    asked: dict[str, Any] = {}

    def ctc_decoder(**arguments: Any) -> Any:
        asked.update(arguments)
        words = SimpleNamespace(words=["AB", "BA"])
        return lambda log_probs, lengths: [[words]] + [[]] * (len(lengths) - 1)

    decoder = SimpleNamespace(ctc_decoder=ctc_decoder)
    monkeypatch.setitem(sys.modules, "torchaudio.models.decoder", decoder)
    monkeypatch.setattr(f"{MODULE}.flashlight_is_there", lambda: True)
    task = SpeechRecognition(tmp_path, recipe(1, 1e-3, **LIBRISPEECH, beam=BEAM), 0)
    outputs, lengths = torch.randn(1, 9, 31), torch.tensor([9])
    (valid,) = task.predict(outputs, lengths, Batch(task.splits["valid"][:1], *batch_of()))
    (test,) = task.predict(outputs, lengths, Batch(task.splits["test"][:1], *batch_of()))
    assert valid.beam is None
    assert test == Decoded(valid.greedy, "AB BA")
    assert asked["tokens"][:5] == ["<pad>", "<eos>", "<unk>", "|", "'"]
    assert task.counts(task.splits["test"][0], test, None)["wer_lm"][1] == 2
    assert task.search is not None
    assert asked["lm"] == str(tmp_path / "4-gram.arpa")
