"""eSpeak NG through ctypes: text to samples with the engine's own phone and word times.

The shared library and its data come with the PyPI package ``espeakng-loader``, in the extra
``ssl-audio[demo]``; nothing is installed on the system. Structure layouts and constants: eSpeak NG
1.52, speak_lib.h.

The engine keeps its oscillator and noise state between utterances and has no way to reset it, so
samples depend on everything a process has synthesised before. Reproducible speech needs a seed (the
engine's own is the time of day), a fresh process and a fixed order of calls (see ``corpus.py``).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

_OUTPUT_SYNCHRONOUS = 2  # audio goes to the callback, Synth returns when all is delivered
_PHONEME_EVENTS, _PHONEME_IPA, _DONT_EXIT = 0x1, 0x2, 0x8000
_CHARS_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_EVENT_END_OF_LIST, _EVENT_WORD, _EVENT_PHONEME = 0, 1, 7
MISSING = "the demo corpus needs eSpeak NG: pip install 'ssl-audio[demo]'"


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # characters, from 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


class _Seen(NamedTuple):
    """What is kept of an event after the callback."""

    kind: int
    sample: int
    text_position: int
    name: bytes


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that starts at ``sample``: a phone (IPA, "" where unnamed) or a word."""

    label: str
    sample: int


@dataclass(frozen=True, slots=True)
class Utterance:
    """``samples`` (S,) int16 at ``sample_rate_hz``; marks in order of time."""

    samples: np.ndarray
    sample_rate_hz: int
    phones: tuple[Mark, ...]
    words: tuple[Mark, ...]


def require_espeak() -> Any:
    """The module ``espeakng_loader``.

    Raises:
        ImportError: in one line with the command that installs it.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise ImportError(MISSING) from error
    return espeakng_loader


class Espeak:
    """The engine, global to the process: a new one replaces the one before.

    Args:
        seed: of the noise in breathy voices.

    Raises:
        ImportError: the extra ``ssl-audio[demo]`` is missing.
        OSError: the engine's data cannot be read.
    """

    def __init__(self, seed: int = 0) -> None:
        loader = require_espeak()
        self._library = ctypes.CDLL(loader.get_library_path())
        options = _PHONEME_EVENTS | _PHONEME_IPA | _DONT_EXIT
        self.sample_rate_hz: int = self._library.espeak_Initialize(
            _OUTPUT_SYNCHRONOUS, 0, str(loader.get_data_path()).encode(), options
        )
        if self.sample_rate_hz <= 0:
            raise OSError(
                f"eSpeak NG cannot read {loader.get_data_path()}; reinstall espeakng-loader"
            )
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        self._chunks: list[np.ndarray] = []
        self._events: list[_Seen] = []
        self._callback = _Callback(self._receive)  # kept: the library holds a bare pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        for event in events:  # a bare pointer: endless, ended by its last entry
            if event.type == _EVENT_END_OF_LIST:
                break
            name = event.id.string if event.type == _EVENT_PHONEME else b""
            self._events.append(_Seen(event.type, event.sample, event.text_position, name))
        return 0

    def synthesize(
        self,
        text: str,
        voice: str,
        words_per_minute: int = 175,
        pitch: int = 50,
        pitch_range: int = 50,
    ) -> Utterance:
        """Speaks ``text`` with ``voice``, a language with an optional variant such as "de+f3".

        Args:
            words_per_minute: 80 to 450.
            pitch: 0 to 99, relative to the voice, 50 is its own.
            pitch_range: 0 (monotone) to 99.

        Raises:
            ValueError: a voice that the engine does not have.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"eSpeak NG has no voice {voice!r}")
        for parameter, value in ((_RATE, words_per_minute), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._chunks, self._events = [], []
        encoded = text.encode()
        status = self._library.espeak_Synth(
            encoded, ctypes.c_size_t(len(encoded) + 1), 0, 0, 0, _CHARS_UTF8, None, None
        )
        if status != 0 or not self._chunks:
            raise ValueError(f"eSpeak NG did not speak {text!r} with voice {voice!r}")
        # Eight bytes at most, so the last character of a phone may be cut in the middle.
        phones = tuple(
            Mark(event.name.decode("utf-8", errors="ignore"), event.sample)
            for event in self._events
            if event.kind == _EVENT_PHONEME
        )
        samples = np.concatenate(self._chunks)
        return Utterance(samples, self.sample_rate_hz, phones, self._words(text))

    def _words(self, text: str) -> tuple[Mark, ...]:
        """Each word event with the text up to the next: the engine speaks "in the" as one word."""
        events = [event for event in self._events if event.kind == _EVENT_WORD]
        starts = [event.text_position - 1 for event in events]
        ends = [*starts[1:], len(text)]
        return tuple(
            Mark(text[start:end].strip(), event.sample)
            for event, start, end in zip(events, starts, ends, strict=True)
        )
