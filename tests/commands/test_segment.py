"""``ssl-audio segment`` and ``ssl-audio tokenize`` from files to files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch

import ssl_audio
from ssl_audio import audio, cli
from ssl_audio.models import LogSpectrumEncoder
from ssl_audio.tokenizers import KMeansTokenizer, SyllableTokenizer

SECONDS = {"a.wav": 1.0, "b/c.flac": 2.3}


@pytest.fixture(scope="module")
def encoder():
    return LogSpectrumEncoder()


@pytest.fixture(scope="module")
def model(encoder, tmp_path_factory):
    """A syllable tokenizer of three units."""
    torch.manual_seed(0)
    tokenizer = SyllableTokenizer(
        encoder, torch.randn(3, encoder.embed_dim), norm_threshold=0.0, merge_threshold=0.3
    )
    return str(ssl_audio.save(tokenizer, tmp_path_factory.mktemp("syllables")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("audio")
    for name, seconds in SECONDS.items():
        (root / name).parent.mkdir(exist_ok=True)
        audio.write(root / name, 0.1 * rng.standard_normal(round(16_000 * seconds)), 16_000)
    (root / "text.wav").write_text("no audio")
    return root


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_segments_of_a_folder(model, folder, tmp_path, capsys):
    out = tmp_path / "out"
    cli.main(["segment", "--model", model, str(folder), "--output", str(out), "--device", "cpu"])
    assert "2 recordings" in (printed := capsys.readouterr().out)
    assert "tokens/s" in printed
    assert "bit/s" in printed
    assert "1 skipped" in printed
    assert "text.wav" in (out / "skipped.json").read_text()
    for name, seconds in SECONDS.items():
        rows = rows_of(out / f"{name}.jsonl")
        assert rows
        for row, following in zip(rows, [*rows[1:], None], strict=True):
            assert set(row) == {"start_sec", "end_sec", "unit"}
            assert 0 <= row["start_sec"] < row["end_sec"] <= seconds
            assert row["unit"] in range(3)
            assert following is None or row["end_sec"] <= following["start_sec"]
        grid = (out / f"{name}.TextGrid").read_text()
        assert f"xmax = {seconds:.6f}" in grid
        assert 'class = "IntervalTier"' in grid


def test_intervals_of_a_textgrid_leave_no_gap(model, folder, tmp_path):
    arguments = ["--output", str(tmp_path), "--norm-threshold", "8", "--device", "cpu"]
    cli.main(["segment", "--model", model, str(folder / "a.wav"), *arguments])
    lines = (tmp_path / "a.wav.TextGrid").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if "intervals: size" in line)
    times = [float(line.split("=")[1]) for line in lines[first:] if "xm" in line]
    assert times[0] == 0
    assert times[-1] == pytest.approx(1.0)
    assert times[1:-1:2] == times[2::2]


def test_an_encoder_and_a_picture(encoder, folder, tmp_path):
    model = ssl_audio.save(encoder, tmp_path / "model")
    arguments = ["--output", str(tmp_path / "out"), "--plot", "--layer", "0", "--device", "cpu"]
    cli.main(["segment", "--model", str(model), str(folder / "a.wav"), *arguments])
    assert (tmp_path / "out" / "a.wav.png").read_bytes().startswith(b"\x89PNG")
    assert all(row["unit"] is None for row in rows_of(tmp_path / "out" / "a.wav.jsonl"))


def test_silence_and_stereo_are_valid(model, tmp_path):
    audio_file = tmp_path / "silence.wav"
    soundfile.write(audio_file, np.zeros((16_000, 2)), 16_000)
    out = tmp_path / "out"
    arguments = ["--norm-threshold", "1000", "--output", str(out), "--device", "cpu"]
    cli.main(["segment", "--model", model, str(audio_file), *arguments])
    assert rows_of(out / "silence.wav.jsonl") == []
    assert 'text = ""' in (out / "silence.wav.TextGrid").read_text()


def test_windows_of_a_long_recording_agree_away_from_seams(model, tmp_path):
    rng = np.random.default_rng(1)
    path = tmp_path / "long.wav"
    level = np.repeat(rng.uniform(0.001, 0.3, 60), 3200)
    audio.write(path, level * rng.standard_normal(len(level)), 16_000)

    def starts(name, *arguments):
        out = ["--output", str(tmp_path / name), "--device", "cpu", "--norm-threshold", "0"]
        cli.main(["segment", "--model", model, str(path), *out, *arguments])
        return {row["start_sec"] for row in rows_of(tmp_path / name / "long.wav.jsonl")}

    whole = starts("whole")
    windows = starts("windows", "--window-sec", "5.12", "--context-sec", "1.28")
    assert len(whole & windows) > 0.8 * len(whole | windows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--merge-threshold", "3"], "merge_threshold=3.0"),
        (["--norm-threshold", "-1"], "norm_threshold=-1.0"),
        (["--layer", "99"], "99"),
    ],
)
def test_bad_arguments_are_one_line(encoder, folder, tmp_path, capsys, arguments, message):
    model = ssl_audio.save(encoder, tmp_path / "model")
    base = ["segment", "--model", str(model), str(folder / "a.wav"), "--output", str(tmp_path)]
    with pytest.raises(SystemExit):
        cli.main([*base, *arguments])
    assert message in (error := capsys.readouterr().err)
    assert error.count("\n") == 1


def test_a_text_file_alone_is_one_line(model, folder, tmp_path, capsys):
    base = ["segment", "--model", model, str(folder / "text.wav"), "--output", str(tmp_path)]
    with pytest.raises(SystemExit):
        cli.main(base)
    assert "text.wav" in (error := capsys.readouterr().err)
    assert error.count("\n") == 1


@pytest.fixture(scope="module")
def frame_model(encoder, tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = KMeansTokenizer(encoder, torch.randn(7, encoder.embed_dim))
    return str(ssl_audio.save(tokenizer, tmp_path_factory.mktemp("kmeans")))


def test_tokens_on_a_clock(frame_model, encoder, folder, tmp_path, capsys):
    out = tmp_path / "tokens.jsonl"
    arguments = ["--output", str(out), "--device", "cpu"]
    cli.main(["tokenize", "--model", frame_model, str(folder), *arguments])
    rows = {row["id"]: row for row in rows_of(out)}
    tokenizer = ssl_audio.load_tokenizer(frame_model)
    for name in SECONDS:
        waveform = torch.from_numpy(audio.read(folder / name))[None]
        assert rows[name]["codes"] == tokenizer.encode(waveform).codes[0].tolist()
        assert "start_sec" not in rows[name]
    total = sum(len(row["codes"]) for row in rows.values())
    rate = total / sum(SECONDS.values())
    printed = capsys.readouterr().out
    assert f"{rate:.2f} tokens/s" in printed
    assert f"{rate * np.log2(7):.1f} bit/s" in printed
    assert "text.wav" in (tmp_path / "tokens.jsonl.skipped.json").read_text()


def test_equal_tokens_in_a_row_become_one(frame_model, folder, tmp_path):
    paths = [tmp_path / "all.jsonl", tmp_path / "runs.jsonl"]
    for path, more in zip(paths, ([], ["--deduplicate"]), strict=True):
        arguments = ["--output", str(path), "--device", "cpu", *more]
        cli.main(["tokenize", "--model", frame_model, str(folder / "a.wav"), *arguments])
    (row,), (runs,) = map(rows_of, paths)
    assert all(a != b for a, b in zip(runs["codes"], runs["codes"][1:], strict=False))
    rate = ssl_audio.load_tokenizer(frame_model).frame_rate
    repeated = [
        code
        for code, start, end in zip(runs["codes"], runs["start_sec"], runs["end_sec"], strict=True)
        for _ in range(round((end - start) * rate))
    ]
    assert repeated == row["codes"]


def test_syllables_are_tokens_too(model, folder, tmp_path):
    cli.main(["tokenize", "--model", model, str(folder), "--output", str(tmp_path / "t.jsonl")])
    for row in rows_of(tmp_path / "t.jsonl"):
        assert len(row["codes"]) == len(row["start_sec"]) == len(row["end_sec"]) > 0
