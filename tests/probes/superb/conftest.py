"""SUPERB corpora of synthesised tones, in the layouts of the originals."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssl_audio import audio
from ssl_audio.models.spectral import MfccEncoder
from ssl_audio.probes.sources import EncoderLayers
from ssl_audio.probes.superb.layers import LayerStack
from ssl_audio.probes.superb.utterance_tasks import EMOTIONS, KEYWORDS, _split_of

Build = Callable[[Path], Path]


def write_tone(path: Path, pitch: int, rng: np.random.Generator, seconds: float = 0.4) -> None:
    time = np.arange(round(seconds * 16_000)) / 16_000
    wave = 0.3 * np.sin(2 * np.pi * 250.0 * 1.35**pitch * time)
    audio.write(path, (wave + 0.003 * rng.standard_normal(len(time))).astype(np.float32), 16_000)


@pytest.fixture
def layers() -> LayerStack:
    return LayerStack(EncoderLayers(MfccEncoder().eval()))


@pytest.fixture
def keywords() -> Build:
    """Two words and one other, three speakers of every split; a background recording."""

    def build(root: Path) -> Path:
        rng = np.random.default_rng(0)
        train = root / "speech_commands_v0.01"
        test = root / "speech_commands_test_set_v0.01"
        names: dict[str, list[str]] = {"train": [], "valid": [], "left out": []}
        for number in itertools.count():
            name = f"{number:08x}_nohash_0.wav"
            found = names[_split_of(name)]
            if len(found) < 3:
                found.append(name)
            if all(len(found) == 3 for found in names.values()):
                break
        for pitch, word in enumerate((*KEYWORDS[:2], "bed")):
            for name in itertools.chain(*names.values()):
                write_tone(train / word / name, pitch, rng)
            label = "_unknown_" if word == "bed" else word
            for number in range(2):
                write_tone(test / label / f"{number}.wav", pitch, rng)
        noise = (0.01 * rng.standard_normal(3 * 16_000)).astype(np.float32)
        audio.write(train / "_background_noise_" / "hum.wav", noise, 16_000)
        audio.write(test / "_silence_" / "a.wav", noise[:16_000], 16_000)
        return root

    return build


@pytest.fixture
def commands() -> Build:
    """Fluent Speech Commands: the pitch gives action and object, the location is one."""

    def build(root: Path) -> Path:
        rng = np.random.default_rng(0)
        for split, count in (("train", 12), ("valid", 6), ("test", 6)):
            lines = [",path,speakerId,transcription,action,object,location"]
            for number in range(count):
                pitch = number % 3
                name = f"wavs/speakers/{split}/{number}.wav"
                write_tone(root / name, pitch, rng)
                action = "on" if pitch else "off"
                thing = "lamp" if pitch < 2 else "music"
                lines.append(f'{number},{name},s,"say, it",{action},{thing},none')
            (root / "data").mkdir(exist_ok=True)
            (root / "data" / f"{split}_data.csv").write_text("\n".join(lines))
        return root

    return build


@pytest.fixture
def emotions() -> Build:
    """Two sessions of two dialogues."""

    def build(root: Path) -> Path:
        rng = np.random.default_rng(0)
        for session in (1, 2):
            base = root / f"Session{session}"
            (base / "dialog" / "EmoEvaluation").mkdir(parents=True)
            for dialogue in ("impro01", "script01_1"):
                name = f"Ses0{session}F_{dialogue}"
                lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
                for number, emotion in enumerate([*EMOTIONS, "xxx", *EMOTIONS]):
                    turn = f"{name}_F{number:03d}"
                    pitch = sorted(set(EMOTIONS.values())).index(EMOTIONS.get(emotion, "sad"))
                    write_tone(base / "sentences" / "wav" / name / f"{turn}.wav", pitch, rng)
                    lines += [
                        f"[6.29 - 8.23]\t{turn}\t{emotion}\t[2.5, 2.5, 2.5]",
                        "C-E2:\tNeutral;",
                    ]
                (base / "dialog" / "EmoEvaluation" / f"{name}.txt").write_text("\n".join(lines))
            (base / "dialog" / "EmoEvaluation" / f"._{name}.txt").write_bytes(b"\0\xff")
        return root

    return build


@pytest.fixture
def speakers() -> Build:
    """VoxCeleb1: eight speakers train, two test."""

    def build(root: Path) -> Path:
        rng = np.random.default_rng(0)
        table, trials = [], []
        for number in range(10):
            part = "test" if number >= 8 else "dev"
            for clip in range(5):
                name = f"id{10001 + number}/video/{clip:05d}.wav"
                write_tone(root / part / "wav" / name, number, rng, 0.5 + 0.1 * (clip % 3))
                table.append(f"{(1, 1, 1, 2, 3)[clip]} {name}")
        for a, b in itertools.combinations(range(4), 2):
            for one, other in ((10009, 10009), (10009, 10010)):
                pair = [f"id{one}/video/{a:05d}.wav", f"id{other}/video/{b:05d}.wav"]
                trials.append(" ".join([str(int(one == other)), *pair]))
        (root / "iden_split.txt").write_text("\n".join(table))
        (root / "veri_test.txt").write_text("\n".join(trials))
        return root

    return build
