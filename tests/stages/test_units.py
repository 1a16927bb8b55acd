"""The units stage on bursts of three tones, silence between them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_audio import hub
from ssl_audio.pipeline import RunContext, run_stages
from ssl_audio.probes.recordings import Recording
from ssl_audio.probes.token_stream import iter_tokens
from ssl_audio.stages.units import UnitsStage
from ssl_audio.tokenizers import SyllableTokenizer


@pytest.fixture(scope="module")
def corpus(bursts, tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    (root / "speech").mkdir()
    rng = np.random.default_rng(0)
    for index in range(12):
        wav = bursts.wav_of(rng.integers(3, size=4), index)
        (root / "speech" / f"{index}.wav").write_bytes(wav)
    return root


@pytest.fixture
def encoder(bursts, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bursts", bursts)
    monkeypatch.setitem(hub.ENCODERS, "bands", "bursts:Bands")
    monkeypatch.setitem(hub.ENCODERS, "patches", "bursts:Patches")
    return str(hub.save(bursts.Bands(), tmp_path / "encoder"))


def run(corpus: Path, encoder: str, directory: Path, **changes) -> Path:
    segmentation = {"norm_threshold": None, "merge_threshold": 0.9, **changes.pop("options", {})}
    config = {
        "encoder": encoder,
        "layer": None,
        "segmentation": segmentation,
        "num_units": 3,
        "passes": 3,
        "batch_segments": 20,
        "data": {
            "_target_": "ssl_audio.data.datamodule.DataModule",
            "source": {
                "_target_": "ssl_audio.data.sources.FolderSource",
                "root": str(corpus),
                "cache_dir": str(directory),
            },
            "batch_sec": 10,
            "valid_fraction": 0.2,
        },
        "seed": 0,
        "device": "cpu",
        **changes,
    }
    run_stages({"units": (UnitsStage(**config), config)}, RunContext(directory))
    return directory / "units"


def test_units_name_the_tones(bursts, corpus, encoder, tmp_path):
    folder = run(corpus, encoder, tmp_path)
    tokenizer = hub.load_tokenizer(folder / "export")
    assert isinstance(tokenizer, SyllableTokenizer)
    order = [0, 2, 1, 1, 0, 2]
    waveform = torch.from_numpy(bursts.bursts(order, seed=99)).float()[None]
    tokens = tokenizer.encode(waveform)
    units = tokens.codes[0, :, 0].tolist()
    assert len(units) == len(order)
    assert len({(tone, unit) for tone, unit in zip(order, units, strict=True)}) == 3
    starts = tokens.starts[0] / tokenizer.frame_rate
    wanted = torch.tensor([start for _, start, _ in bursts.times_of(order)])
    assert (starts - wanted).abs().max() < 0.05

    found = json.loads((folder / "metrics.json").read_text())
    expected = 4 / bursts.duration_of([0] * 4)
    assert found["segments_per_sec"] == pytest.approx(expected, rel=0.05)
    assert found["bits_per_sec"] == pytest.approx(found["segments_per_sec"] * np.log2(3))


def test_joining_and_silences_do_not_change_what_units_are_fitted_on(corpus, encoder, tmp_path):
    plain = hub.load_tokenizer(run(corpus, encoder, tmp_path / "a") / "export")
    options = {"deduplicate": True, "silence_gap_sec": 0.1}
    more = hub.load_tokenizer(run(corpus, encoder, tmp_path / "b", options=options) / "export")
    assert (plain.centroids == more.centroids).all()
    assert (plain.codebook_size, more.codebook_size) == (3, 4)


def test_patches_of_one_stretch_of_time_are_one_frame(bursts, corpus, encoder, tmp_path):
    patches = str(hub.save(bursts.Patches(), tmp_path / "patches"))
    one, other = (
        hub.load_tokenizer(run(corpus, source, tmp_path / name) / "export")
        for source, name in ((encoder, "a"), (patches, "b"))
    )
    assert (one.centroids == other.centroids).all()
    assert one.options == other.options
    assert one.frame_rate == other.frame_rate == 25
    assert one.num_frames(16_000) == other.num_frames(16_000)
    item = Recording("x", bursts.duration_of([0, 1]), lambda *_: bursts.bursts([0, 1], 0))
    (found,), (same,) = (list(iter_tokens(x, [item])) for x in (one, other))
    assert found.codes.shape == (2, 1)
    for field in ("codes", "start_sec", "end_sec"):
        assert (getattr(found, field) == getattr(same, field)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_units": 1000, "passes": 1}, "vectors for 1000 units"),
        ({"options": {"merge_threshold": 2}}, "merge_threshold=2"),
        ({"layer": 9}, "layer=9"),
    ],
)
def test_what_cannot_work_is_one_line(corpus, encoder, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        run(corpus, encoder, tmp_path, **changes)
    assert "\n" not in str(caught.value)
