import shutil

import numpy as np
import pytest

from ssl_audio import audio
from ssl_audio.data.datamodule import DataModule
from ssl_audio.data.folder_source import FolderSource


def test_domains_ids_and_order(tmp_path, write_noise):
    write_noise(tmp_path / "b" / "speech" / "x.wav")
    write_noise(tmp_path / "music" / "y.FLAC")
    write_noise(tmp_path / "a.ogg")
    (tmp_path / "notes.txt").write_text("not audio")
    write_noise(tmp_path / ".trash" / "z.wav")
    write_noise(tmp_path / "._a.wav")
    source = FolderSource(tmp_path)
    assert {clip.id: clip.domain for clip in source.clips} == {
        "a.ogg": "audio",
        "b/speech/x.wav": "speech",
        "music/y.FLAC": "audio",
    }
    assert source.skipped == []
    assert {clip.domain for clip in FolderSource(tmp_path, domain="speech").clips} == {"speech"}


def test_one_folder_per_domain(tmp_path, write_noise):
    write_noise(tmp_path / "s" / "x.wav")
    write_noise(tmp_path / "m" / "x.wav")
    source = FolderSource(speech_root=tmp_path / "s", audio_root=tmp_path / "m")
    assert [(c.id, c.domain) for c in source.clips] == [
        ("speech/x.wav", "speech"),
        ("audio/x.wav", "audio"),
    ]


def test_reads_a_stretch(tmp_path, write_noise):
    path = write_noise(tmp_path / "x.flac", 2.0, 16_000)
    source = FolderSource(tmp_path)
    whole = audio.read(path)
    assert np.array_equal(source.read(0), whole)
    assert np.array_equal(source.read(0, 0.5, 0.25), whole[8000:12000])
    assert np.array_equal(source.read(0, 1.5), whole[24000:])


def test_the_scan_is_kept_and_follows_changes(tmp_path, write_noise, monkeypatch):
    root, cache = tmp_path / "root", tmp_path / "cache"
    for name in ("a", "b", "c"):
        write_noise(root / f"{name}.wav", 0.5)
    before = FolderSource(root, cache_dir=cache).clips
    assert not list(root.glob("*.jsonl"))
    opened, info = [], audio.info
    monkeypatch.setattr(audio, "info", lambda path: opened.append(path.name) or info(path))
    assert FolderSource(root, cache_dir=cache).clips == before
    assert opened == []
    write_noise(root / "b.wav", 0.75)
    (root / "c.wav").unlink()
    write_noise(root / "d.wav", 0.25)
    after = FolderSource(root, cache_dir=cache).clips
    assert [(c.id, c.duration_sec) for c in after] == [
        ("a.wav", 0.5),
        ("b.wav", 0.75),
        ("d.wav", 0.25),
    ]
    assert sorted(opened) == ["b.wav", "d.wav"]


def test_a_damaged_cache_is_made_again(tmp_path, write_noise):
    write_noise(tmp_path / "root" / "a.wav")
    FolderSource(tmp_path / "root", cache_dir=tmp_path)
    (cache,) = tmp_path.glob("scan_*.jsonl")
    cache.write_text('{"path": 3')
    assert len(FolderSource(tmp_path / "root", cache_dir=tmp_path).clips) == 1


def broken_folder(root, write_noise):
    """Everything the wild has: 4 files that a scan refuses, 2 that only decoding finds, 7 good."""
    write_noise(root / "empty.wav", 0.0)
    (root / "text.wav").write_text("hello")
    (root / "nothing.flac").touch()
    broken = bytearray(write_noise(root / "rate0.wav").read_bytes())
    broken[24:28] = bytes(4)
    (root / "rate0.wav").write_bytes(broken)
    whole = write_noise(root / "truncated.flac", 3.0).read_bytes()
    (root / "truncated.flac").write_bytes(whole[: len(whole) // 2])
    import soundfile

    samples = np.full((8000, 1), 0.1, dtype=np.float32)
    samples[100] = np.nan
    soundfile.write(root / "nan.wav", samples, 16_000, subtype="FLOAT")
    noise = np.random.default_rng(0).normal(0, 0.1, (48_000, 6))
    soundfile.write(root / "six.wav", noise, 96_000, subtype="PCM_24")
    soundfile.write(root / "eight.wav", noise[:8000, :1], 16_000, subtype="PCM_U8")
    write_noise(root / "short.wav", 0.02)
    for name in "abcd":
        write_noise(root / f"{name}.wav", 0.5)


def test_bad_files_are_skipped_counted_and_listed(tmp_path, write_noise):
    broken_folder(tmp_path, write_noise)
    source = FolderSource(tmp_path)
    assert sorted(reason.split("/")[-1].split(":")[0] for _, reason in source.skipped) == [
        "empty.wav",
        "nothing.flac",
        "rate0.wav",
        "text.wav",
    ]
    assert all("\n" not in reason for _, reason in source.skipped)
    data = DataModule(source, batch_sec=4.0, min_sec=0.1, valid_fraction=0.0)
    assert data.segments.num_short_clips == 1
    names = {name for batch in data.iter_batches("train") for name in batch.ids}
    assert names == {"a.wav", "b.wav", "c.wav", "d.wav", "eight.wav", "six.wav"}
    listed = {name for name, _ in data.skipped}
    assert {"nan.wav", "truncated.flac"} < listed
    assert len(listed) == 6


def test_too_many_bad_files_are_refused(tmp_path, write_noise):
    broken_folder(tmp_path, write_noise)
    with pytest.raises(
        ValueError, match=r"4 of 13 files .*max_bad_fraction=0\.1; the first: .*wav"
    ):
        FolderSource(tmp_path, max_bad_fraction=0.1)


def test_wrong_folders_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"nowhere is not a folder; correct data\.root"):
        FolderSource(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=r"empty holds no audio file .*\.flac.*; correct data\.root"
    ):
        FolderSource(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"set data\.root, data\.speech_root or data\.audio_root"):
        FolderSource()
    with pytest.raises(ValueError, match="domain='music'"):
        FolderSource(tmp_path, domain="music")
    (tmp_path / "empty" / "x.wav").write_text("text")
    with pytest.raises(ValueError, match=r"none of 1 files can be used; the first: .*x\.wav"):
        FolderSource(tmp_path / "empty")
    shutil.rmtree(tmp_path / "empty")
