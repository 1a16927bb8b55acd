"""Scores do not depend on how many clips share a forward pass.

Rounding differs with the shape of a matrix product, so features agree to 1e-5 of their size and not
to the last bit; what is decided on them, and so every score, has to be the same. Only networks that
learn by gradient steps are sensitive enough to differ: of them it is the test score within a clip.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssl_audio import audio
from ssl_audio.data.demo import corpus as demo_corpus
from ssl_audio.models import Zipformer
from ssl_audio.probes.classify import ProbeSettings
from ssl_audio.probes.demo import demo_suite
from ssl_audio.probes.folder import folder_suite
from ssl_audio.probes.runner import probe_sources
from ssl_audio.probes.sources import EncoderLayers
from ssl_audio.probes.suite import SPLITS
from ssl_audio.probes.syllable_corpora import SyllableCorpus, SyllableRecording
from ssl_audio.probes.syllable_suite import SyllableSettings, probe_syllables
from ssl_audio.probes.tokens import token_quality
from ssl_audio.tokenizers import KMeansTokenizer
from ssl_audio.tokenizers.teacher_tokens import teacher_rows

COUNTS = {"train": 15, "valid": 6, "test": 12}
TONES_HZ = {"a": 300.0, "b": 900.0, "c": 2500.0}
RATE_HZ = 16_000
MAX_SEC = 0.6
BATCHES_SEC = [size * MAX_SEC for size in (1, 4, 16)]  # of clips of 0.3 to 0.6 s


def noisy(labels: list[str], rng: np.random.Generator) -> tuple[np.ndarray, list[float]]:
    """Tones of equal length in noise that makes their classes overlap, and where each begins."""
    count = int(rng.uniform(0.3, MAX_SEC) * RATE_HZ)
    starts = [i * count // len(labels) for i in range(len(labels) + 1)]
    wave = 0.15 * rng.standard_normal(count)
    for label, start, stop in zip(labels, starts, starts[1:], strict=False):
        time = np.arange(stop - start) / RATE_HZ
        wave[start:stop] += 0.2 * np.sin(2 * np.pi * TONES_HZ[label] * rng.uniform(0.7, 1.4) * time)
    return wave.astype(np.float32), [start / RATE_HZ for start in starts]


def clips_of(split: str) -> list[tuple[str, list[str], np.ndarray, list[float]]]:
    """Name, labels of the two halves, samples and the ends of the halves."""
    rng = np.random.default_rng(SPLITS.index(split))
    labels = [list(rng.permutation(list(TONES_HZ))[:2]) for _ in range(COUNTS[split])]
    return [(f"{split}{i}", pair, *noisy(pair, rng)) for i, pair in enumerate(labels)]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The first tone of a clip as its label, and both as segments."""
    root = tmp_path_factory.mktemp("folder")
    for task in ("first", "tones"):
        (root / "probes" / task).mkdir(parents=True)
    for split in SPLITS:
        first, tones = ["path,label"], ["path,label,start,end"]
        for name, labels, wave, times in clips_of(split):
            audio.write(root / f"{name}.wav", wave, RATE_HZ)
            first.append(f"{name}.wav,{labels[0]}")
            for label, start, end in zip(labels, times, times[1:], strict=False):
                tones.append(f"{name}.wav,{label},{start},{end}")
        for task, rows in (("first", first), ("tones", tones)):
            (root / "probes" / task / f"{split}.csv").write_text("\n".join(rows))
    return root


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """The same clips in the columns of the demo corpus."""
    folder = tmp_path_factory.mktemp("demo") / "corpus"
    rows = []
    for split in SPLITS:
        for name, labels, wave, times in clips_of(split):
            phones = [
                {"label": label, "start_sec": start, "end_sec": end}
                for label, start, end in zip(labels, times, times[1:], strict=False)
            ]
            sound = {"bytes": audio.encode(wave, RATE_HZ, "WAV"), "path": None}
            common = {"id": name, "audio": sound, "num_samples": len(wave), "split": split}
            rows.append({**common, "domain": "speech", "voice": labels[0], "phones": phones})
    demo_corpus._save(rows, folder, fingerprint="test")
    return folder


def scores(suite: Any, encoder: Any, *probes: str) -> list[dict[str, Any]]:
    """For each batch size, all that is decided: the choices, their scores and those not taken."""
    results = [
        probe_sources(
            {"x": EncoderLayers(encoder)},
            suite,
            probes=probes,
            settings=ProbeSettings(batch_sec=seconds),
        )
        for seconds in BATCHES_SEC
    ]
    assert not any(found["warnings"] for found in results)
    return [
        {
            row: {key: value for key, value in score.items() if key != "seconds"}
            for row, score in found["scores"]["x"].items()
        }
        for found in results
    ]


def test_folder(root, padding_exact):
    one, four, sixteen = scores(
        folder_suite(root), padding_exact, "linear", "knn", "ridge", "boundaries"
    )
    assert {"first", "tones", "first/knn", "tones/ridge", "tones_boundaries"} < set(one)
    assert four == one
    assert sixteen == one


def test_demo(demo, padding_exact):
    one, four, sixteen = scores(demo_suite(demo, ["voice", "phones"]), padding_exact, "linear")
    assert set(one) == {"voice", "phones"}
    assert four == one
    assert sixteen == one


@pytest.mark.parametrize("padding_exact", [Zipformer], indirect=True)
def test_heads_that_learn_by_gradient_steps(root, padding_exact, quick_heads):
    found = scores(folder_suite(root, ["first"]), padding_exact, "superb_linear", "hear_mlp")
    for row in ("first", "first/hear_mlp"):
        values = [score[row]["value"] for score in found]
        assert max(values) - min(values) <= 1 / COUNTS["test"]


def test_tokens(root, padding_exact):
    wave = torch.from_numpy(clips_of("test")[0][2])
    rows, _ = teacher_rows(padding_exact, None, wave[None])
    tokenizer = KMeansTokenizer(padding_exact, rows[0])  # a unit for each frame of a clip
    suite = folder_suite(root, ["tones"]).only(["tones"])
    one, four, sixteen = (
        json.dumps(token_quality(tokenizer, suite, batch_sec=seconds)) for seconds in BATCHES_SEC
    )
    assert json.loads(one)["codebooks"]["mean"]["perplexity"] > 1
    assert four == one
    assert sixteen == one


def test_syllables(padding_exact, bursts):
    def recording(name: str, seed: int) -> SyllableRecording:
        order = np.random.default_rng(seed).integers(3, size=1 + seed % 3).tolist()
        spans = [(start, end, "abc"[tone]) for tone, start, end in bursts.times_of(order)]
        wav, seconds = bursts.wav_of(order, seed), bursts.duration_of(order)
        return SyllableRecording.of(name, wav, seconds, spans)

    splits = {
        split: tuple(recording(f"{split}{i}", 10 * number + i) for i in range(2))
        for number, split in enumerate(SPLITS)
    }
    longest = max(item.recording.duration_sec for part in splits.values() for item in part)
    one, four, sixteen = (
        probe_syllables(
            padding_exact,
            [SyllableCorpus("bursts", splits)],
            untrained=padding_exact,
            settings=SyllableSettings(num_units=3, batch_sec=size * longest),
        )["scores"]["trained"]
        for size in (1, 4, 16)
    )
    assert set(one) > {"bursts: boundaries", "bursts: units: syllable purity"}
    assert four == one
    assert sixteen == one
