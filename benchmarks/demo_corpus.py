"""The demo corpus: build time, minutes, classes per split, and how far log-mel statistics get.

    python benchmarks/demo_corpus.py [CACHE_DIR] [MINUTES]

The baseline is the mean and standard deviation over time of a 128-band log-mel spectrogram,
standardised, with logistic regression; its strength is chosen on valid, the score is on test.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import soundfile
import torch
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchaudio.transforms import MelSpectrogram

from ssl_audio.data.demo import build_demo_corpus

TASKS = ("language", "voice", "event", "instrument", "pitch")
SPLITS = ("train", "valid", "test")


def log_mel_statistics(rows: list[dict]) -> np.ndarray:
    """(N, 256) mean and standard deviation per band."""
    transform = MelSpectrogram(16_000, n_fft=512, win_length=400, hop_length=160, n_mels=128)
    features = []
    for row in rows:
        samples, _ = soundfile.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
        log_mel = torch.log(transform(torch.from_numpy(samples)) + 1e-8)
        features.append(torch.cat([log_mel.mean(1), log_mel.std(1)]).numpy())
    return np.stack(features)


def probe(features: np.ndarray, labels: np.ndarray, splits: np.ndarray) -> float:
    """Test accuracy of the strength that is best on valid."""
    best = (-1.0, 0.0)
    for strength in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
        model.fit(features[splits == "train"], labels[splits == "train"])
        valid, test = (
            model.score(features[splits == s], labels[splits == s]) for s in ("valid", "test")
        )
        best = max(best, (valid, test), key=lambda pair: pair[0])
    return best[1]


def main(cache_dir: Path, minutes: float) -> None:
    start = time.perf_counter()
    folder = build_demo_corpus(cache_dir, minutes=minutes)
    print(f"{folder} after {time.perf_counter() - start:.1f} s")
    rows = list(datasets.load_from_disk(str(folder)))
    kinds = Counter[str]()
    for row in rows:
        kind = "speech" if row["language"] else "events" if row["event"] else "notes"
        kinds[kind] += row["num_samples"]
    print({kind: f"{count / 16_000 / 60:.1f} min" for kind, count in kinds.items()})
    table = Table("task", "classes", *SPLITS, "per class", "chance", "log-mel statistics")
    for task in TASKS:
        chosen = [row for row in rows if row[task] is not None]
        labels = np.array([row[task] for row in chosen])
        splits = np.array([row["split"] for row in chosen])
        sizes = [str((splits == split).sum()) for split in SPLITS]
        spread = [np.unique(labels[splits == s], return_counts=True)[1] for s in SPLITS]
        per_class = " / ".join(f"{c.min()}-{c.max()}" for c in spread)
        chance = np.unique(labels[splits == "test"], return_counts=True)[1].max()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # convergence of the weakest penalty
            accuracy = probe(log_mel_statistics(chosen), labels, splits)
        share = chance / (splits == "test").sum()
        cells = (str(len(set(labels))), *sizes, per_class, f"{share:.3f}", f"{accuracy:.3f}")
        table.add_row(task, *cells)
    Console().print(table)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else scratch)
        main(folder, float(sys.argv[2]) if len(sys.argv) > 2 else 30.0)
