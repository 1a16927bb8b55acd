from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

import ssl_audio
from ssl_audio import audio, cli
from ssl_audio.extraction.inputs import open_input
from ssl_audio.extraction.writers import file_name
from ssl_audio.models.spectral import MfccEncoder
from ssl_audio.probes.recordings import Windowing

SECONDS = {"a.wav": 1.0, "speech/b.flac": 2.3, "speech/c.wav": 0.4, "long.wav": 4.1}
WINDOWS = Windowing(2.56, 0.64)


@pytest.fixture(scope="module")
def encoder():
    return MfccEncoder().eval()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "audio"
    for name, seconds in SECONDS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        audio.write(root / name, 0.1 * rng.standard_normal(round(16_000 * seconds)), 16_000)
    return root


def frames_of(encoder, path):
    samples = torch.from_numpy(audio.read(path))[None]
    with torch.no_grad():
        out = encoder(samples)
    return out.frames[0, : int(out.lengths)].numpy()


def test_frames_equal_those_of_the_encoder(encoder, folder, tmp_path):
    report = ssl_audio.extract(encoder, folder, tmp_path / "out", windowing=WINDOWS)
    assert (report.num_written, report.num_present, report.num_skipped) == (4, 0, 0)
    assert report.audio_sec == pytest.approx(sum(SECONDS.values()))
    assert "audio-hours per hour" in str(report)
    for name in SECONDS:
        path = tmp_path / "out" / f"{name}.safetensors"
        wanted = frames_of(encoder, folder / name)
        stored = load_file(path)["last"]
        if name == "long.wav":  # a spectral teacher normalises over what it sees
            assert stored.shape == wanted.shape
        else:
            np.testing.assert_allclose(stored, wanted, atol=1e-4)
        with safe_open(path, "np") as file:
            metadata = file.metadata()
        assert metadata["id"] == name
        assert int(metadata["num_frames"]) == len(wanted)
        assert float(metadata["frame_rate_hz"]) == encoder.frame_rate


def test_a_repeated_call_does_only_what_is_missing(encoder, folder, tmp_path):
    out = tmp_path / "out"
    ssl_audio.extract(encoder, folder, out, pool="mean")
    kept = (out / "a.wav.safetensors").stat().st_mtime_ns
    (out / "speech" / "b.flac.safetensors").unlink()
    report = ssl_audio.extract(encoder, folder, out, pool="mean")
    assert (report.num_written, report.num_present) == (1, 3)
    assert (out / "a.wav.safetensors").stat().st_mtime_ns == kept
    with pytest.raises(ValueError, match=r"another extraction \(pooling: \"mean\" there"):
        ssl_audio.extract(encoder, folder, out, pool="none")


@pytest.mark.parametrize("file_format", ["safetensors", "npy", "parquet"])
def test_a_corrupt_file_is_skipped_counted_and_listed(encoder, folder, tmp_path, file_format):
    data = (folder / "speech" / "b.flac").read_bytes()
    (folder / "cut.flac").write_bytes(data[: len(data) // 3])
    (folder / "text.flac").write_text("not audio")
    out = tmp_path / "out"
    for _ in range(2):
        report = ssl_audio.extract(encoder, folder, out, pool="mean", file_format=file_format)
        assert report.num_skipped == 2
        skipped = json.loads((out / "skipped.json").read_text())
        assert sorted(path.rpartition("/")[2] for path in skipped) == ["cut.flac", "text.flac"]
    assert report.num_present == 4
    for name in ("cut.flac", "text.flac"):
        (folder / name).write_bytes(data)
    if file_format != "parquet":
        report = ssl_audio.extract(encoder, folder, out, pool="mean", file_format=file_format)
        assert (report.num_written, report.num_skipped) == (2, 0)
        assert not (out / "skipped.json").exists()


def test_parquet_is_a_data_set_and_continues(encoder, folder, tmp_path, monkeypatch):
    import datasets

    from ssl_audio.extraction import writers

    monkeypatch.setattr(writers, "CLIPS_PER_BLOCK", 3)
    out = tmp_path / "out"
    ssl_audio.extract(encoder, folder, out, layers="all", pool="mean+std", file_format="parquet")
    (out / "part-00001.parquet").unlink()
    report = ssl_audio.extract(
        encoder, folder, out, layers="all", pool="mean+std", file_format="parquet"
    )
    assert (report.num_written, report.num_present) == (1, 3)
    rows = datasets.load_dataset(
        "parquet",
        data_files=str(out / "*.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    ).with_format("numpy")
    assert sorted(rows["id"]) == sorted(SECONDS)
    (row,) = (row for row in rows if row["id"] == "a.wav")
    frames = frames_of(encoder, folder / "a.wav")
    wanted = np.concatenate([frames.mean(0), frames.std(0)])
    np.testing.assert_allclose(row["0"], wanted, atol=1e-4)
    assert row["num_frames"] == len(frames)


def test_parquet_holds_frames_too(encoder, folder, tmp_path):
    import pyarrow.parquet

    out = tmp_path / "out"
    ssl_audio.extract(encoder, folder / "a.wav", out, file_format="parquet", dtype="float16")
    table = pyarrow.parquet.read_table(out / "part-00000.parquet")
    stored = np.array(table["last"][0].as_py())
    np.testing.assert_allclose(stored, frames_of(encoder, folder / "a.wav"), rtol=1e-3, atol=1e-3)


def test_npy_stacks_layers_of_equal_width(encoder, folder, tmp_path):
    ssl_audio.extract(
        encoder, folder / "a.wav", tmp_path / "out", layers=[0, "last"], file_format="npy"
    )
    stored = np.load(tmp_path / "out" / "a.wav.npy", allow_pickle=False)
    assert stored.shape == (2, *frames_of(encoder, folder / "a.wav").shape)


def test_scikit_learn_reads_the_result(encoder, tmp_path):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    for i in range(24):
        tone = np.sin(2 * np.pi * (300, 2000)[i % 2] * np.arange(8000) / 16_000)
        audio.write(
            tmp_path / "tones" / f"{i % 2}_{i:02d}.wav",
            0.3 * tone + 0.01 * rng.standard_normal(8000),
            16_000,
        )
    ssl_audio.extract(encoder, tmp_path / "tones", tmp_path / "out", pool="mean+std")
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    x = np.stack([load_file(file)["last"] for file in files])
    y = [file.name[0] for file in files]
    model = LogisticRegression(max_iter=1000).fit(x[::3], y[::3])
    assert model.score(x, y) == 1.0


def test_inputs_are_files_folders_manifests_and_data_sets(folder, tmp_path):
    assert [clip.id for clip in open_input(folder / "a.wav").clips] == ["a.wav"]
    assert len(open_input(folder).clips) == len(SECONDS)
    manifest = tmp_path / "list.csv"
    manifest.write_text("path\n" + "\n".join(str(folder / name) for name in list(SECONDS)[:2]))
    assert len(open_input(manifest).clips) == 2
    import datasets

    rows = datasets.Dataset.from_dict({"audio": [{"path": str(folder / "a.wav"), "bytes": None}]})
    rows.save_to_disk(str(tmp_path / "rows"))
    assert open_input(tmp_path / "rows").clips[0].duration_sec == 1.0


def test_ids_become_safe_and_different_names():
    ids = [
        "a/b.wav",
        "/etc/x.wav",
        "../x.wav",
        "a/../b",
        ".hidden",
        "..",
        "a:b",
        "a%3Ab",
        "ä ö.wav",
    ]
    ids += ["x" * 300, "x" * 301, "a//b", "a\nb"]
    names = [file_name(name) for name in ids]
    assert len(set(names)) == len(ids)
    assert names[0] == "a/b.wav"
    for name in names:
        assert not name.startswith("/")
        assert ".." not in name.split("/")
        assert all(0 < len(part.encode()) <= 200 for part in name.split("/"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": "7"}, "no layer '7'; use last, all, or numbers from 0 to"),
        ({"pool": "max"}, "unknown pooling 'max'"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"file_format": "pkl"}, "unknown format 'pkl'"),
    ],
)
def test_wrong_arguments_are_one_line(encoder, folder, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        ssl_audio.extract(encoder, folder, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_the_command(encoder, folder, tmp_path, capsys):
    ssl_audio.save(encoder, tmp_path / "model")
    out = tmp_path / "out"
    common = ["extract", "--model", str(tmp_path / "model"), "--output", str(out)]
    cli.main([*common, "--input", str(folder), "--pool", "mean", "--device", "cpu"])
    assert "4 clips" in capsys.readouterr().out
    assert load_file(out / "long.wav.safetensors")["last"].shape == (encoder.embed_dim,)
    with pytest.raises(SystemExit):
        cli.main([*common, "--input", str(tmp_path / "nothing")])
    assert "does not exist; give an audio file" in capsys.readouterr().err


def test_a_folder_without_a_usable_clip_is_an_error(encoder, tmp_path):
    soundfile.write(tmp_path / "tiny.wav", np.zeros(10), 16_000)
    with pytest.raises(ValueError, match=r"none of 1 clips could be used; the first: tiny\.wav"):
        ssl_audio.extract(encoder, tmp_path / "tiny.wav", tmp_path / "out")
