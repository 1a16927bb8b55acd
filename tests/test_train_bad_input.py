"""The whole program with files, folders and corpora that it cannot use."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ssl_audio import audio
from ssl_audio.models.spectral import MfccEncoder

RATE_HZ = 16_000


def tone(index: int, seconds: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Every index another pitch."""
    time_sec = np.arange(round(seconds * rate_hz)) / rate_hz
    return 0.2 * np.sin(2 * np.pi * (200 + 60 * index) * time_sec, dtype=np.float32)


def test_a_missing_folder_is_one_line(program):
    missing = program.folder / "missing"
    arguments = program.overrides("name=missing", f"data.root={missing}")
    _, errors = program.finish(*arguments, status=2)
    assert errors == f"error: data: {missing} is not a folder; correct data.root\n"


def test_an_empty_folder_is_one_line(program, tmp_path):
    with pytest.raises(ValueError, match=rf"^data: {tmp_path} holds no audio file .* data\.root$"):
        program.run("empty", f"data.root={tmp_path}")


def test_a_corpus_without_a_domain_is_one_line(program):
    with pytest.raises(ValueError, match=r"no audio segment in the train split; .*experiment"):
        program.run("one_domain", "data.root=null", f"data.speech_root={program.corpus}/speech")


def test_a_teacher_with_another_frame_rate_is_one_line(program, monkeypatch):
    monkeypatch.setattr(MfccEncoder, "frame_rate", 31.0)
    with pytest.raises(ValueError, match="a teacher with another frame rate: 31 Hz codes do not"):
        program.run("rates")
    assert not list(program.run_dir("rates").rglob("*/export"))  # no quantizer was trained in vain


def make_bad_files(folder: Path) -> dict[str, str]:
    """Files that cannot be used, with what is said about them."""
    folder.mkdir()
    whole_file = folder / "whole.flac"
    audio.write(whole_file, tone(1, 0.4), RATE_HZ)
    content = whole_file.read_bytes()
    whole_file.unlink()
    (folder / "truncated.flac").write_bytes(content[: len(content) // 2])
    soundfile.write(folder / "no_sample.wav", np.zeros(0), RATE_HZ)
    (folder / "text.wav").write_text("not a sound\n")
    samples = tone(2, 0.4)
    samples[100] = np.nan
    soundfile.write(folder / "nan.wav", samples, RATE_HZ, subtype="FLOAT")
    return dict.fromkeys(["truncated.flac", "no_sample.wav", "text.wav", "nan.wav"], "")


def make_odd_files(folder: Path) -> None:
    """Unusual files that can be used, and one that is too short."""
    soundfile.write(folder / "8bit.wav", tone(3, 0.4), RATE_HZ, subtype="PCM_U8")
    soundfile.write(folder / "24bit.wav", tone(4, 0.4), RATE_HZ, subtype="PCM_24")
    six_channels = np.stack([tone(i, 0.4, 96_000) for i in range(6)], axis=1)
    soundfile.write(folder / "six.wav", six_channels, 96_000)
    soundfile.write(folder / "20ms.wav", tone(5, 0.02), RATE_HZ)


def test_bad_files_are_left_out_and_listed(program, tmp_path, capsys):
    root = tmp_path / "corpus"
    shutil.copytree(program.corpus, root)
    bad = make_bad_files(root / "speech" / "bad")
    make_odd_files(root / "speech")
    run_dir = program.run("bad", f"data.root={root}", "task.max_steps=24")
    assert (run_dir / "student" / "export").is_dir()
    printed = capsys.readouterr().out
    listed = printed[printed.index("files were skipped:") :]
    for name in bad:
        assert f"speech/bad/{name}" in listed
    assert f"{len(bad)} files were skipped:" in printed
    assert "1 clips shorter than 0.1 s were left out" in printed
    for name in ("8bit.wav", "24bit.wav", "six.wav"):
        assert name not in listed
    assert len(program.losses("bad")["train/loss"]) == 24
    assert all(np.isfinite(list(program.losses("bad")["train/loss"].values())))
