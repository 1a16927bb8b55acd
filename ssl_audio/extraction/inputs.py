"""What ``--input`` may be: one file, a folder, a manifest, a data set."""

from __future__ import annotations

from pathlib import Path

from ssl_audio import audio
from ssl_audio.data.clips import Clip
from ssl_audio.data.folder_source import FolderSource
from ssl_audio.data.huggingface_source import HuggingFaceSource
from ssl_audio.data.manifest_source import ManifestSource
from ssl_audio.data.source import FileSource, Source

MANIFESTS = (".jsonl", ".json", ".csv", ".tsv")
DATASET_FILES = ("state.json", "dataset_dict.json")
HUB_SCHEME = "hf:"


def open_input(path: str | Path, split: str | None = None) -> Source:
    """The clips that ``path`` stands for.

    Broken files are listed in ``skipped`` however many they are.

    Args:
        path: an audio file; a folder, searched to its bottom; a manifest (jsonl, csv, fairseq tsv);
            a folder of ``datasets.save_to_disk``; ``hf:ORG/NAME``.
        split: of a data set with several.

    Raises:
        ValueError: nothing usable there; one line on what was expected.
    """
    name, folder = str(path), Path(path).expanduser()
    if name.startswith(HUB_SCHEME):
        return HuggingFaceSource(name.removeprefix(HUB_SCHEME), split=split, max_bad_fraction=1.0)
    if folder.is_dir():
        if any((folder / file).is_file() for file in DATASET_FILES):
            return HuggingFaceSource(folder, split=split, max_bad_fraction=1.0)
        return FolderSource(folder, max_bad_fraction=1.0)
    if not folder.is_file():
        raise ValueError(
            f"{name} does not exist; give an audio file, a folder, a manifest "
            f"({', '.join(MANIFESTS)}) or {HUB_SCHEME}ORG/NAME"
        )
    if folder.suffix.lower() in MANIFESTS:
        return ManifestSource(folder, max_bad_fraction=1.0)
    header = audio.info(folder)
    clip = Clip(folder.name, str(folder), header.num_samples, header.sample_rate_hz, "audio")
    return FileSource([clip], [])
