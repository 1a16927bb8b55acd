import json

import pytest

from ssl_audio.data.manifest import build_manifest
from ssl_audio.data.manifest_source import ManifestSource


@pytest.fixture
def corpus(tmp_path, write_noise):
    write_noise(tmp_path / "audio" / "a.wav", 0.5)
    write_noise(tmp_path / "audio" / "b.flac", 0.25, 8_000)
    return tmp_path


def lines(path, rows):
    path.write_text("\n".join(rows) + "\n")
    return path


def facts(source):
    return [(c.id, c.num_samples, c.sample_rate_hz, c.domain, c.start_sec) for c in source.clips]


def test_csv_without_lengths_and_paths_from_the_folder_above(corpus):
    (corpus / "lists").mkdir()
    manifest = lines(
        corpus / "lists" / "m.csv",
        ["path,duration_s,domain,speaker", "audio/a.wav,0.5,speech,x", "audio/b.flac,0.25,music,"],
    )
    source = ManifestSource(manifest, cache_dir=corpus / "cache")
    assert facts(source) == [
        ("audio/a.wav", 8000, 16_000, "speech", 0.0),
        ("audio/b.flac", 2000, 8_000, "audio", 0.0),
    ]
    assert source.clips[0].tags["speaker"] == "x"
    assert len(source.read(1)) == 4000
    assert list((corpus / "cache").iterdir())


def test_jsonl_with_stretches(corpus):
    rows = [
        {"path": "audio/a.wav", "num_samples": 1600, "sample_rate_hz": 16_000, "start_sec": 0.2},
        {"id": "rest", "path": "audio/a.wav", "start_sec": 0.4, "tags": {"split": "test"}},
    ]
    source = ManifestSource(lines(corpus / "m.jsonl", map(json.dumps, rows)), domain="speech")
    assert facts(source) == [
        ("audio/a.wav", 1600, 16_000, "speech", 0.2),
        ("rest", 1600, 16_000, "speech", 0.4),
    ]
    assert source.clips[1].tags == {"split": "test"}
    assert len(source.read(0)) == len(source.read(1)) == 1600
    assert len(source.read(0, 0.05, 0.01)) == 160


def test_fairseq_tsv(corpus):
    manifest = lines(corpus / "m.tsv", [str(corpus / "audio"), "a.wav\t8000", "gone.wav\t800"])
    source = ManifestSource(manifest)
    assert facts(source) == [("a.wav", 8000, 16_000, "audio", 0.0)]
    assert [reason for _, reason in source.skipped] == [
        f"{corpus}/audio/gone.wav: no such file; correct the path or data.root"
    ]


def test_built_manifest_reads_back(corpus, capsys):
    write = corpus / "audio" / "broken.wav"
    write.write_text("text")
    report = build_manifest(corpus / "audio", corpus / "m.jsonl", domain="speech")
    assert "speech: 2 clips, 0.00 h, 0.25 to 0.50 s" in str(report)
    assert "cannot be used: 1 files" in str(report)
    assert str(write) in str(report)
    assert [json.loads(line)["path"] for line in (corpus / "m.jsonl").read_text().splitlines()] == [
        "audio/a.wav",
        "audio/b.flac",
    ]
    assert facts(ManifestSource(corpus / "m.jsonl")) == [
        ("a.wav", 8000, 16_000, "speech", 0.0),
        ("b.flac", 2000, 8_000, "speech", 0.0),
    ]


def test_decoding_finds_what_headers_do_not_tell(corpus):
    data = (corpus / "audio" / "b.flac").read_bytes()
    (corpus / "audio" / "b.flac").write_bytes(data[: len(data) // 2])
    report = build_manifest(corpus / "audio", corpus / "m.jsonl", decode=True)
    assert [path.split("/")[-1] for path, _ in report.skipped] == ["b.flac"]


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        (
            "m.csv",
            ["file,domain", "a.wav,speech"],
            r"row 1: no column 'path' \(found: file, domain\)",
        ),
        (
            "m.csv",
            ["path,domain", "audio/a.wav,spech"],
            "row 1: unknown domain 'spech'; use one of",
        ),
        ("m.csv", ["path,domain", "audio/a.wav"], "another number of columns"),
        ("m.csv", ["path,num_samples", "audio/a.wav,9"], "without 'sample_rate_hz'"),
        ("m.csv", ["path,num_samples,sample_rate_hz", "audio/a.wav,x,1"], "row 1: not a number"),
        ("m.csv", ["path,num_samples,sample_rate_hz", "audio/a.wav,9,-1"], "9 samples at -1 Hz"),
        ("m.csv", ["path", "audio/none.wav"], "none of 1 files .*none.wav: no such file"),
        ("m.csv", ["path", "audio/a.wav", "audio/a.wav"], "'audio/a.wav' stands twice"),
        ("m.csv", ["path"], "lists no clip"),
        ("m.jsonl", ["{'path': 3}"], "line 1: not a JSON object"),
        ("m.jsonl", ["[1]"], "line 1: not a JSON object"),
        ("m.tsv", ["/nowhere", "a.wav\t8000"], "no file below /nowhere can be read"),
        ("m.tsv", ["/nowhere", "a.wav 8000"], "line 2: expected a path, a tab"),
        ("m.parquet", ["x"], "a manifest is a .jsonl, .csv or .tsv"),
    ],
)
def test_bad_manifests_are_named_with_the_row(corpus, name, rows, message):
    with pytest.raises(ValueError, match=message) as caught:
        ManifestSource(lines(corpus / name, rows))
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_missing_and_binary_manifests(corpus):
    with pytest.raises(ValueError, match=r"none\.csv does not exist; correct data\.manifest"):
        ManifestSource(corpus / "none.csv")
    with pytest.raises(ValueError, match=r"data\.source\.domain: unknown domain 'words'"):
        ManifestSource(lines(corpus / "m.csv", ["path", "audio/a.wav"]), domain="words")
    (corpus / "m.csv").write_bytes(b"path\n\xff\xfe\n")
    with pytest.raises(ValueError, match="not UTF-8"):
        ManifestSource(corpus / "m.csv")


def test_recorded_audio(data_dir):
    source = ManifestSource(data_dir / "pretrain" / "manifest.csv")
    assert len(source.clips) > 100
    assert source.skipped == []
    stated = sum(float(clip.tags["duration_s"]) for clip in source.clips)
    assert sum(clip.duration_sec for clip in source.clips) == pytest.approx(stated, rel=0.01)
    assert {clip.domain for clip in source.clips} == {"speech", "audio"}
