"""Every golden file of Sylber's folder is read by a test."""

from __future__ import annotations

from pathlib import Path

# pattern of the golden files -> tests that read all files of the pattern
TESTED = {
    "segmentation*": "test_syllables.py",
    "segmenter_e2e*": "test_segmenter.py",
    "hubert_*": "test_hubert.py",
    "train*": "test_sylber_training.py",
    "noise_mixer*": "test_sylber_training.py",
    "modules*": "test_norm_threshold.py",
    "mincut*": "test_mincut.py",
    "metrics*": "test_boundaries.py",
    "sdhubert*": "test_sdhubert.py",
}


def test_every_file_has_a_test(reference_dir: Path) -> None:
    folder = reference_dir / "sylber"
    files = {path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".md"}
    for pattern, test in TESTED.items():
        assert Path(__file__).with_name(test).is_file()
        files -= {path.name for path in folder.glob(pattern)}
    assert not files, f"golden files without a test: {', '.join(sorted(files))}"
