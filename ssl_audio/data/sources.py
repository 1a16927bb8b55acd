"""Where audio comes from: the sources by name."""

from ssl_audio.data.folder_source import FolderSource
from ssl_audio.data.huggingface_source import DemoSource, HuggingFaceSource
from ssl_audio.data.manifest_source import ManifestSource
from ssl_audio.data.source import FileSource, Source

__all__ = [
    "DemoSource",
    "FileSource",
    "FolderSource",
    "HuggingFaceSource",
    "ManifestSource",
    "Source",
]
