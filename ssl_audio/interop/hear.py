"""HEAR's common API, for hear-eval-kit and whatever else speaks it.

    python3 -m heareval.embeddings.runner ssl_audio.interop.hear --model EXPORT
    ... --model-options '{"layer": "6"}'

Source of the contract: HEAR 2021 (arXiv:2203.03022), common API; hear-validator 2021.0.2.
Axes: n clips, S samples, t frames, d channels.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ssl_audio.batch import SAMPLE_RATE_HZ
from ssl_audio.interop.frozen import FrozenEncoder
from ssl_audio.probes.embeddings import Extraction
from ssl_audio.probes.sources import LAST_LAYER, Patches


class HearModel(FrozenEncoder):
    """One layer of an encoder.

    Attributes:
        sample_rate: of the audio it takes, Hz.
        scene_embedding_size, timestamp_embedding_size: d.
    """

    sample_rate = SAMPLE_RATE_HZ

    def __init__(self, source: str | Path, layer: str = LAST_LAYER, patches: Patches = "concat"):
        super().__init__(source, [str(layer)], patches)
        self.scene_embedding_size = self.timestamp_embedding_size = self.widths[str(layer)]

    def frames(self, audio: Tensor) -> Tensor:
        """(n, S) to (n, t, d) float32."""
        return torch.stack([next(iter(layers.values())) for layers in self.layers(list(audio))])


def load_model(
    model_file_path: str = "", layer: str = LAST_LAYER, patches: Patches = "concat"
) -> HearModel:
    """An encoder of ours for HEAR.

    Args:
        model_file_path: anything that ``ssl_audio.load_encoder`` opens.
        layer: "last" for the encoder's output, or the number of a hidden state.
        patches: see ``EncoderLayers``.

    Raises:
        ValueError: no model, or one that cannot be opened.
    """
    if not model_file_path:
        raise ValueError("no model; give the folder of an exported encoder: --model EXPORT")
    return HearModel(model_file_path, layer, patches)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """(n, S) in [-1, 1] to (n, d) float32: the mean over the frames."""
    return model.frames(audio).mean(1)


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """(n, S) in [-1, 1] to (n, t, d) float32 frames and (n, t) their centres, milliseconds."""
    frames = model.frames(audio)
    times_ms = torch.from_numpy(Extraction(model.source).timestamps_ms(frames.shape[1]))
    return frames, times_ms.to(frames).expand(len(frames), -1)
