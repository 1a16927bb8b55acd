"""Decoding, cropping, resampling and writing; every kind of bad file ends in one line."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ssl_audio import audio
from ssl_audio.audio import AudioError


def chirp(num_samples: int, sample_rate_hz: int = 16_000) -> np.ndarray:
    """A sweep below 4 kHz with a little noise: every stretch differs from every other."""
    time = np.arange(num_samples) / sample_rate_hz
    noise = np.random.default_rng(0).standard_normal(num_samples)
    return (0.4 * np.sin(600 * time * (1 + time)) + 0.001 * noise).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "opus", "mp3"])
def test_formats_round_trip(tmp_path: Path, suffix: str) -> None:
    path, samples = tmp_path / f"a.{suffix}", chirp(16_000)
    audio.write(path, samples, 16_000)
    assert audio.info(path) == audio.AudioInfo(16_000, 16_000, 1)
    assert audio.info(path).duration_sec == 1.0
    decoded = audio.read(path)
    assert decoded.dtype == np.float32
    assert decoded.shape == samples.shape
    tolerance = 1e-4 if suffix in ("wav", "flac") else 0.1
    assert np.abs(decoded - samples).max() < tolerance


@pytest.mark.parametrize(("subtype", "tolerance"), [("PCM_U8", 0.01), ("PCM_24", 1e-6)])
def test_pcm_depths(tmp_path: Path, subtype: str, tolerance: float) -> None:
    soundfile.write(tmp_path / "a.wav", chirp(800), 16_000, subtype=subtype)
    np.testing.assert_allclose(audio.read(tmp_path / "a.wav"), chirp(800), atol=tolerance)


def test_channels_are_averaged_and_resampled(tmp_path: Path) -> None:
    gains = np.linspace(0.1, 0.6, 6, dtype=np.float32)
    channels = chirp(96_000, 96_000)[:, None] * gains
    soundfile.write(tmp_path / "a.wav", channels, 96_000, subtype="FLOAT")
    assert audio.info(tmp_path / "a.wav").num_channels == 6
    samples = audio.read(tmp_path / "a.wav")
    expected = chirp(96_000, 96_000)[::6] * gains.mean()
    assert samples.shape == expected.shape
    np.testing.assert_allclose(samples[200:-200], expected[200:-200], atol=2e-3)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 44_099])
@pytest.mark.parametrize("suffix", ["flac", "mp3"])
def test_a_crop_is_a_slice_of_the_full_read(tmp_path: Path, rate: int, suffix: str) -> None:
    if suffix == "mp3" and rate == 44_099:
        rate = 32_000  # MP3 knows a few rates only
    path = tmp_path / f"a.{suffix}"
    audio.write(path, chirp(4 * rate + 17, rate), rate)
    full = audio.read(path)
    assert len(full) == audio.num_samples_at(4 * rate + 17, rate, 16_000)
    for start_sec, duration_sec in [(0.0, 1.0), (1.23456, 0.02), (2.5, 1.0), (3.9, 5.0)]:
        start = round(start_sec * 16_000)
        crop = audio.read(path, start_sec, duration_sec)
        expected = full[start : start + round(duration_sec * 16_000)]
        assert crop.shape == expected.shape
        np.testing.assert_allclose(crop, expected, atol=1e-5)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_crop_decodes_little_more_than_itself(
    tmp_path: Path, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio.write(tmp_path / "a.flac", np.zeros(60 * rate, np.float32), rate)
    decoded: list[int] = []
    read = soundfile.SoundFile.read

    def counting_read(file: soundfile.SoundFile, frames: int, **options: object) -> np.ndarray:
        decoded.append(frames)
        return read(file, frames, **options)

    monkeypatch.setattr(soundfile.SoundFile, "read", counting_read)
    assert len(audio.read(tmp_path / "a.flac", 30.0, 2.0)) == 32_000
    assert sum(decoded) <= 2.25 * rate


def test_length_rule() -> None:
    assert audio.num_samples_at(16_000, 16_000, 16_000) == 16_000
    assert audio.num_samples_at(1, 48_000, 16_000) == 0
    assert audio.num_samples_at(3, 32_000, 16_000) == 2  # 1.5 rounds up
    hours = 10 * 3600 * 44_100 + 1
    assert audio.num_samples_at(hours, 44_100, 16_000) == 10 * 3600 * 16_000
    for rate in (8_000, 22_050, 44_100, 96_000):
        for num_samples in (7, 441, 12_345):
            resampled = audio.resample(np.zeros(num_samples, np.float32), rate, 16_000)
            assert len(resampled) == audio.num_samples_at(num_samples, rate, 16_000)


def test_resampling_keeps_a_tone() -> None:
    time = np.arange(44_100) / 44_100
    samples = audio.resample(np.sin(2 * np.pi * 440 * time).astype(np.float32), 44_100, 16_000)
    expected = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(samples[200:-200], expected[200:-200], atol=1e-4)


def test_bytes_and_open_files() -> None:
    data = audio.encode(chirp(8_000), 16_000, "flac")
    from_bytes = audio.read(data, 0.1, 0.2)
    assert len(from_bytes) == 3_200
    assert np.array_equal(from_bytes, audio.read(io.BytesIO(data), 0.1, 0.2))
    assert audio.info(data).num_samples == 8_000


def test_20_ms_file_is_read_whole(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", chirp(882, 44_100), 44_100)
    assert len(audio.read(tmp_path / "a.wav", 0.0, 10.0)) == 320


def truncated_flac() -> bytes:
    data = audio.encode(np.random.default_rng(0).uniform(-1, 1, 40_000), 16_000, "flac")
    return data[: len(data) // 2]


def truncated_mp3() -> bytes:
    data = audio.encode(chirp(160_000), 16_000, "mp3")
    return data[: len(data) // 2]


def float_wav(samples: list[float]) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.array(samples, np.float32), 16_000, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def wav_with_rate(sample_rate_hz: int) -> bytes:
    data = bytearray(audio.encode(chirp(800), 16_000, "wav"))
    data[24:28] = sample_rate_hz.to_bytes(4, "little")
    return bytes(data)


BAD_FILES = [
    pytest.param(truncated_flac, "copy it again", id="truncated flac"),
    pytest.param(truncated_mp3, "truncated", id="truncated mp3"),
    pytest.param(lambda: b"this is text\n" * 40, "not readable as audio", id="text"),
    pytest.param(lambda: b"", "not readable as audio", id="empty file"),
    pytest.param(lambda: float_wav([]), "holds no samples", id="no samples"),
    pytest.param(lambda: float_wav([0.0, float("nan")] * 50), "NaN or infinite", id="NaN"),
    pytest.param(lambda: float_wav([0.0, float("inf")] * 50), "NaN or infinite", id="infinity"),
    pytest.param(lambda: wav_with_rate(0), "sample rate", id="rate 0"),
    pytest.param(lambda: wav_with_rate(1), "sample rate of 1 Hz", id="rate 1"),
]


@pytest.mark.parametrize(("make", "message"), BAD_FILES)
def test_bad_files_end_in_one_line_with_the_name(
    tmp_path: Path, make: object, message: str
) -> None:
    path = tmp_path / "bad.wav"
    path.write_bytes(make())  # type: ignore[operator]
    with pytest.raises(AudioError, match=message) as caught:
        audio.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(AudioError, match="clip 7"):
        audio.read(path.read_bytes(), name="clip 7")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "none.wav", tmp_path):
        with pytest.raises(AudioError, match="no such file"):
            audio.info(path)
    (tmp_path / "a.raw").write_bytes(b"\0" * 100)
    with pytest.raises(AudioError, match="not readable"):
        audio.info(tmp_path / "a.raw")


def test_crops_outside_the_file(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", chirp(1_600), 16_000)
    for start_sec in (-0.1, 0.1, 3.0):
        with pytest.raises(AudioError, match="lies outside"):
            audio.read(tmp_path / "a.wav", start_sec, 1.0)
    with pytest.raises(AudioError, match="no sample"):
        audio.read(tmp_path / "a.wav", 0.0, 0.0)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    audio.write(path, chirp(800), 16_000)

    def disk_full(target: Path, data: bytes) -> None:
        target.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="No space"):
        audio.write(path, chirp(80), 16_000)
    assert audio.info(path).num_samples == 800
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".xyz", ""])
def test_unknown_formats_are_refused(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(ValueError, match="cannot write"):
        audio.write(tmp_path / f"a{suffix}", chirp(80), 16_000)
    with pytest.raises(ValueError, match="cannot write"):
        audio.encode(chirp(80), 12_345, "opus")


def test_shared_recordings_are_readable(data_dir: Path) -> None:
    """Opus as it is found in the wild: the crop is a slice of the full read."""
    path = min((data_dir / "pretrain").rglob("*.opus"), key=lambda p: p.stat().st_size)
    full = audio.read(path)
    assert len(full) == audio.info(path).num_samples
    half = audio.info(path).duration_sec / 2
    crop = audio.read(path, half, 1.0)
    np.testing.assert_allclose(crop, full[round(half * 16_000) :][: len(crop)], atol=1e-4)
