"""Decode, resample and write audio: the only place that touches codecs.

Every read gives mono float32 at the rate asked for. A crop seeks: it never decodes what it does not
return, apart from a few milliseconds on either side that a resampling filter needs, so a crop of a
3-hour file costs what a crop of a short one does.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from ssl_audio.batch import SAMPLE_RATE_HZ
from ssl_audio.files import replacing

AudioSource = str | os.PathLike[str] | bytes | BinaryIO

# Outside these a header is broken, and resampling to 16 kHz could ask for terabytes.
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000
# MP3 counts its length in frames of 1152 samples; a count may be off by the encoder's delay.
MAX_MISSING_SAMPLES = 2 * 1152
RESAMPLING_CONTEXT_SEC = 0.05  # longer than soxr HQ's filter at any rate above MIN_RATE_HZ
SUBTYPES = {"OPUS": ("OGG", "OPUS"), "OGG": ("OGG", "VORBIS")}


class AudioError(ValueError):
    """Audio that cannot be used: one line that names the file and the mend."""


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a header says: samples per channel, their rate, channels."""

    num_samples: int
    sample_rate_hz: int
    num_channels: int

    @property
    def duration_sec(self) -> float:
        return self.num_samples / self.sample_rate_hz


def num_samples_at(num_samples: int, rate_from: int, rate_to: int) -> int:
    """How many samples ``num_samples`` at ``rate_from`` Hz become at ``rate_to`` Hz.

    The one length rule for resampling: rounded to nearest, halves up, in exact arithmetic.
    """
    return (2 * num_samples * rate_to + rate_from) // (2 * rate_from)


def info(source: AudioSource, *, name: str | None = None) -> AudioInfo:
    """Read the header of a file, of its bytes, or of an open binary file.

    Args:
        source: path, encoded bytes, or a seekable binary file.
        name: what messages call it; by default the path.

    Raises:
        AudioError: missing, not audio, without samples, or with an impossible sample rate.
    """
    with _open(source, name or _name_of(source)) as file:
        return _info_of(file)


def read(
    source: AudioSource,
    start_sec: float = 0.0,
    duration_sec: float | None = None,
    sample_rate_hz: int = SAMPLE_RATE_HZ,
    *,
    name: str | None = None,
) -> np.ndarray:
    """Decode a stretch of audio to mono, the mean of the channels, at ``sample_rate_hz``.

    The full read of n samples at rate r has ``num_samples_at(n, r, sample_rate_hz)`` samples. A
    crop is that array from ``round(start_sec * sample_rate_hz)`` on, ``round(duration_sec *
    sample_rate_hz)`` samples or up to the end of the file, and costs only its own length.

    Args:
        source: path, encoded bytes, or a seekable binary file; anything libsndfile reads.
        start_sec: start of the stretch, seconds.
        duration_sec: its length; ``None`` reads to the end.
        sample_rate_hz: rate of the result.
        name: what messages call the source; by default the path.

    Returns:
        (S,) float32, S >= 1; integer formats are scaled to [-1, 1].

    Raises:
        AudioError: as ``info``; also truncated data, samples that are not finite, or a stretch that
            starts before 0 or at or after the end.
    """
    name = name or _name_of(source)
    with _open(source, name) as file:
        header = _info_of(file)
        total = num_samples_at(header.num_samples, header.sample_rate_hz, sample_rate_hz)
        start = round(start_sec * sample_rate_hz)
        if not 0 <= start < max(total, 1):
            raise AudioError(
                f"{name}: a crop at {start_sec} s lies outside its {header.duration_sec:.3f} s; "
                "rebuild the manifest if the file has changed"
            )
        stop = total
        if duration_sec is not None:
            stop = min(total, start + round(duration_sec * sample_rate_hz))
        if stop <= start:
            raise AudioError(f"{name}: a crop of {duration_sec} s holds no sample; ask for more")
        if header.sample_rate_hz == sample_rate_hz:
            samples = _decode(file, name, start, stop)
        else:
            samples = _decode_resampled(file, name, header, start, stop, sample_rate_hz)
    if not np.isfinite(samples).all():
        raise AudioError(f"{name}: holds NaN or infinite samples; re-export or remove the file")
    return samples


def resample(samples: np.ndarray, rate_from: int, rate_to: int) -> np.ndarray:
    """Resample (S,) float32 with soxr HQ to exactly ``num_samples_at(S, rate_from, rate_to)``."""
    if rate_from == rate_to:
        return samples
    import soxr

    resampled = soxr.resample(samples, rate_from, rate_to, quality="HQ")
    return _fit(resampled, num_samples_at(len(samples), rate_from, rate_to))


def encode(samples: np.ndarray, sample_rate_hz: int, audio_format: str = "FLAC") -> bytes:
    """Encode (S,) or (S, channels) samples as the bytes of a WAV, FLAC, OGG, OPUS or MP3 file.

    WAV and FLAC hold 16-bit PCM; samples beyond [-1, 1] are clipped.

    Raises:
        ValueError: a format that libsndfile cannot write, or a rate that the format cannot hold.
    """
    container, subtype = SUBTYPES.get(audio_format.upper(), (audio_format.upper(), None))
    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, samples, sample_rate_hz, format=container, subtype=subtype)
    except (soundfile.SoundFileError, ValueError, TypeError) as error:
        raise ValueError(
            f"cannot write {audio_format} at {sample_rate_hz} Hz ({error}); "
            "use wav, flac, ogg, opus or mp3 and a rate the format allows"
        ) from error
    return buffer.getvalue()


def write(path: str | os.PathLike[str], samples: np.ndarray, sample_rate_hz: int) -> None:
    """Write samples as the format that the suffix of ``path`` names (see ``encode``).

    The file appears whole or not at all: a full disk leaves what was there before.
    """
    path = Path(path)
    data = encode(samples, sample_rate_hz, path.suffix.removeprefix("."))
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _name_of(source: AudioSource) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return str(getattr(source, "name", "audio in memory"))


@contextmanager
def _open(source: AudioSource, name: str) -> Iterator[soundfile.SoundFile]:
    """The open file; whatever libsndfile objects to while it is open becomes one line."""
    if isinstance(source, str | os.PathLike) and not os.path.isfile(source):
        raise AudioError(f"{name}: no such file; correct the path or rebuild the manifest")
    try:
        file = soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a headerless .raw file
        raise _unreadable(name, error) from error
    with file:
        if not MIN_RATE_HZ <= file.samplerate <= MAX_RATE_HZ:
            raise AudioError(
                f"{name}: a sample rate of {file.samplerate} Hz; the header is broken, "
                "re-export or remove the file"
            )
        if file.frames <= 0:
            raise AudioError(f"{name}: holds no samples; remove the file")
        try:
            yield file
        except soundfile.SoundFileError as error:
            raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> AudioError:
    reason = str(getattr(error, "error_string", error)).strip(" .")
    if "SF_INFO" in reason:  # libsndfile's words for a header whose numbers make no sense
        reason = "the header gives no possible sample rate or number of channels"
    return AudioError(
        f"{name}: not readable as audio ({reason}); copy it again, convert it to WAV or FLAC, "
        "or remove it"
    )


def _info_of(file: soundfile.SoundFile) -> AudioInfo:
    return AudioInfo(file.frames, file.samplerate, file.channels)


def _decode(file: soundfile.SoundFile, name: str, start: int, stop: int) -> np.ndarray:
    """Mono samples [start, stop) at the file's own rate."""
    if start:
        file.seek(start)
    channels = file.read(stop - start, dtype="float32", always_2d=True)
    missing = stop - start - len(channels)
    if len(channels) == 0 or missing > MAX_MISSING_SAMPLES:
        raise AudioError(
            f"{name}: truncated, {missing} of {stop - start} samples are missing after "
            f"{start / file.samplerate:.3f} s; copy it again or remove it"
        )
    mono = channels[:, 0] if channels.shape[1] == 1 else channels.mean(axis=1, dtype=np.float32)
    return _fit(mono, stop - start)


def _decode_resampled(
    file: soundfile.SoundFile, name: str, header: AudioInfo, start: int, stop: int, rate_to: int
) -> np.ndarray:
    """Samples [start, stop) of the whole file's resampled version, from a decode with context.

    ``step_to`` samples at the new rate last exactly as long as ``step_from`` at the old: starting
    on that grid keeps the crop's phase equal to the full read's.
    """
    divisor = math.gcd(header.sample_rate_hz, rate_to)
    step_from, step_to = header.sample_rate_hz // divisor, rate_to // divisor
    context = math.ceil(RESAMPLING_CONTEXT_SEC * rate_to)
    first_step = max(0, start - context) // step_to
    last_step = -(-(stop + context) // step_to)
    decode_stop = min(header.num_samples, last_step * step_from)
    samples = _decode(file, name, first_step * step_from, decode_stop)
    offset = first_step * step_to
    return _fit(resample(samples, header.sample_rate_hz, rate_to)[start - offset :], stop - start)


def _fit(samples: np.ndarray, num_samples: int) -> np.ndarray:
    """``samples`` cut, or padded with zeros, to ``num_samples``; contiguous."""
    if len(samples) < num_samples:
        return np.pad(samples, (0, num_samples - len(samples)))
    return np.ascontiguousarray(samples[:num_samples])
