"""Kaldi folders, Libri2Mix and VoiceBank as they are laid out."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssl_audio.probes.superb.mixtures import Turn, read_libri2mix, read_turns, read_voicebank


def kaldi_folder(directory: Path, wav: str = "rec.wav") -> Path:
    (directory / "wav.scp").write_text(f"rec {wav}\n")
    (directory / "utt2spk").write_text("u1 zoe\nu2 adam\n")
    (directory / "reco2dur").write_text("rec 10.0\n")
    (directory / "segments").write_text("u1 rec 0.5 9.0\nu2 rec 2.0 3.5\n")
    return directory


def test_turns_in_chunks(tmp_path: Path) -> None:
    (whole,) = read_turns(kaldi_folder(tmp_path))
    assert whole.path == tmp_path / "rec.wav"
    assert whole.target == [Turn(1, 0.5, 9.0), Turn(0, 2.0, 3.5)]
    assert whole.duration_sec is None
    chunks = read_turns(tmp_path, 4.0)
    assert [(chunk.id, chunk.start_sec) for chunk in chunks] == [
        ("rec", 0.0),
        ("rec@4.00s", 4.0),
        ("rec@8.00s", 8.0),
    ]
    assert chunks[1].target == [Turn(1, 0.0, 4.0)]
    assert chunks[2].target == [Turn(1, 0.0, 1.0)]


def test_kaldi_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"wav.scp is missing"):
        read_turns(tmp_path)
    kaldi_folder(tmp_path, "sox x.flac -t wav - |")
    with pytest.raises(ValueError, match="rec is a command"):
        read_turns(tmp_path)
    kaldi_folder(tmp_path)
    (tmp_path / "segments").write_text("u1 rec 0.5\n")
    with pytest.raises(ValueError, match="line 1: 4 columns expected, 3 found"):
        read_turns(tmp_path)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_libri2mix(tmp_path: Path) -> None:
    part = tmp_path / "wav16k" / "min" / "dev"
    touch(*(part / name / "1_2.wav" for name in ("mix_clean", "s1", "s2")))
    (utterance,) = read_libri2mix(tmp_path, "dev")
    assert utterance.target == (part / "s1" / "1_2.wav", part / "s2" / "1_2.wav")
    (part / "s2" / "1_2.wav").unlink()
    with pytest.raises(ValueError, match=r"s2/1_2.wav is missing"):
        read_libri2mix(tmp_path, "dev")
    with pytest.raises(ValueError, match=r"generate_librimix_ss.sh"):
        read_libri2mix(tmp_path, "test")


@pytest.mark.parametrize("ending", ["", "_16k"])
def test_voicebank_keeps_two_speakers_for_validation(tmp_path: Path, ending: str) -> None:
    for side in ("noisy", "clean"):
        folder = tmp_path / f"{side}_trainset_28spk_wav{ending}"
        touch(*(folder / f"{speaker}_001.wav" for speaker in ("p226", "p227", "p287")))
        touch(tmp_path / f"{side}_testset_wav{ending}" / "p232_001.wav")
    ids = {
        part: [u.id for u in read_voicebank(tmp_path, part)] for part in ("train", "dev", "test")
    }
    assert ids == {"train": ["p227_001"], "dev": ["p226_001", "p287_001"], "test": ["p232_001"]}
