"""Clips of the audio domain: sound events and musical notes through random channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ssl_audio.data.demo.channel import ChannelRange, encode_flac, record
from ssl_audio.data.demo.events import EVENTS, render_event
from ssl_audio.data.demo.notes import INSTRUMENTS, PITCHES, render_note

EVENT_CHANNEL = ChannelRange(snr_db=(8.0, 35.0), equalizer_db=3.0, telephone_probability=0.0)
NOTE_CHANNEL = ChannelRange(
    snr_db=(12.0, 40.0), wet_db=(-20.0, -8.0), equalizer_db=2.0, telephone_probability=0.0
)
EVENT_CLASSES = tuple(EVENTS)
_SPLIT_OF_20 = ("train",) * 12 + ("valid",) * 3 + ("test",) * 5


def event_clips(name: str, num_clips: int, seed: int) -> list[dict[str, Any]]:
    """``num_clips`` clips of one event class."""
    clips = []
    for index in range(num_clips):
        rng = np.random.default_rng([seed, 1, EVENT_CLASSES.index(name), index])
        samples = record(render_event(name, rng), rng, EVENT_CHANNEL)
        # 7 is prime to 20: any run of clips holds the splits in about the right shares.
        labels = {"event": name, "split": _SPLIT_OF_20[7 * index % 20]}
        clips.append(_clip(f"event-{name}-{index:04d}", samples, labels))
    return clips


def note_clips(instrument: str, num_clips: int, seed: int) -> list[dict[str, Any]]:
    """``num_clips`` notes of one instrument, each pitch in turn.

    Four turns put every pitch of every instrument into every split. Were a pair of the two held
    out for the test, a probe would learn from training that they do not go together, and the
    encoder that tells pitch best would look worst on instruments.
    """
    number, clips = list(INSTRUMENTS).index(instrument), []
    for index in range(num_clips):
        turn, note = index // len(PITCHES), 5 * index % len(PITCHES)
        rng = np.random.default_rng([seed, 2, number, index])
        samples = record(render_note(instrument, PITCHES[note], rng), rng, NOTE_CHANNEL)
        split = ("train", "valid", "train", "test")[(turn + note + number) % 4]
        labels = {"instrument": instrument, "pitch": PITCHES[note], "split": split}
        clips.append(_clip(f"note-{instrument}-{index:04d}", samples, labels))
    return clips


def _clip(name: str, samples: np.ndarray, labels: dict[str, Any]) -> dict[str, Any]:
    audio = {"bytes": encode_flac(samples), "path": None}
    return {"id": name, "audio": audio, "domain": "audio", "num_samples": len(samples), **labels}
