import numpy as np
import pytest

from ssl_audio import audio
from ssl_audio.data.huggingface_source import DemoSource, HuggingFaceSource

datasets = pytest.importorskip("datasets")
SAMPLES = [np.random.default_rng(i).normal(0, 0.1, 8000 + i).astype(np.float32) for i in range(4)]


def save(folder, **columns):
    rows = {"audio": [{"bytes": audio.encode(x, 16_000), "path": None} for x in SAMPLES]} | columns
    datasets.Dataset.from_dict(rows).save_to_disk(folder)
    return folder


def test_rows_with_lengths(tmp_path):
    save(
        tmp_path,
        id=list("abcd"),
        domain=["speech", "music", "speech", "audio"],
        num_samples=[len(x) for x in SAMPLES],
        sample_rate_hz=[16_000] * 4,
        split=["train", "train", "valid", "test"],
        words=[["a"]] * 4,
    )
    source = HuggingFaceSource(tmp_path)
    assert [(c.id, c.num_samples, c.domain, c.tags) for c in source.clips] == [
        ("a", 8000, "speech", {"split": "train"}),
        ("b", 8001, "audio", {"split": "train"}),
        ("c", 8002, "speech", {"split": "valid"}),
        ("d", 8003, "audio", {"split": "test"}),
    ]
    np.testing.assert_allclose(source.read(2), SAMPLES[2], atol=1e-4)
    np.testing.assert_allclose(source.read(1, 0.25, 0.1), SAMPLES[1][4000:5600], atol=1e-4)


def test_lengths_are_looked_up_once_and_bad_rows_listed(tmp_path, monkeypatch):
    encoded = [{"bytes": audio.encode(x, 16_000), "path": None} for x in SAMPLES]
    encoded[1] = {"bytes": b"text", "path": None}
    encoded[2] = {"bytes": None, "path": None}
    save(tmp_path / "data", audio=encoded)
    source = HuggingFaceSource(tmp_path / "data", domain="speech", cache_dir=tmp_path / "cache")
    assert [(c.id, c.num_samples) for c in source.clips] == [("00000000", 8000), ("00000003", 8003)]
    assert [name for name, _ in source.skipped] == ["00000001", "00000002"]
    assert len(source.read(1)) == 8003
    monkeypatch.setattr(audio, "info", None)
    again = HuggingFaceSource(tmp_path / "data", domain="speech", cache_dir=tmp_path / "cache")
    assert (again.clips, again.skipped) == (source.clips, source.skipped)


def test_audio_feature_is_not_decoded_by_datasets(tmp_path):
    paths = []
    for i, samples in enumerate(SAMPLES):
        paths.append(str(tmp_path / f"{i}.wav"))
        audio.write(paths[-1], samples, 16_000)
    dataset = datasets.Dataset.from_dict({"sound": paths}).cast_column("sound", datasets.Audio())
    dataset.save_to_disk(tmp_path / "data")
    source = HuggingFaceSource(tmp_path / "data", audio_column="sound")
    assert [clip.num_samples for clip in source.clips] == [len(x) for x in SAMPLES]
    np.testing.assert_allclose(source.read(3), SAMPLES[3], atol=1e-4)


def test_splits_of_a_dataset_dict(tmp_path):
    rows = {"audio": [{"bytes": audio.encode(SAMPLES[0], 16_000), "path": None}]}
    dataset = datasets.Dataset.from_dict(rows)
    datasets.DatasetDict({"train": dataset, "other": dataset}).save_to_disk(tmp_path)
    assert len(HuggingFaceSource(tmp_path, split="other").clips) == 1
    with pytest.raises(ValueError, match=r"has the splits train, other; set data\.split"):
        HuggingFaceSource(tmp_path)


def test_wrong_datasets_are_named(tmp_path):
    save(tmp_path / "data", text=["x"] * 4)
    with pytest.raises(
        ValueError, match=r"no column 'sound' \(found: .*set data\.source\.audio_co"
    ):
        HuggingFaceSource(tmp_path / "data", audio_column="sound")
    with pytest.raises(ValueError, match="nowhere cannot be loaded") as caught:
        HuggingFaceSource(tmp_path / "nowhere")
    assert "\n" not in str(caught.value)
    save(tmp_path / "labels", domain=["speech", "spech", "audio", "audio"])
    with pytest.raises(ValueError, match="row 1: unknown domain 'spech'"):
        HuggingFaceSource(tmp_path / "labels")


def test_the_demo_corpus_is_built_where_it_is_asked_for(tmp_path, monkeypatch):
    from ssl_audio.data.demo import corpus

    asked = []

    def build(cache_dir, seed, minutes):
        asked.append((cache_dir, seed, minutes))
        return save(cache_dir / "corpus")

    monkeypatch.setattr(corpus, "build_demo_corpus", build)
    source = DemoSource(str(tmp_path), seed=3, minutes=2)
    assert asked == [(tmp_path, 3, 2)]
    assert len(source.clips) == 4
