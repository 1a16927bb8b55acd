"""Our encoders as upstreams of s3prl.

In Python, for ``s3prl.nn.S3PRLUpstream`` and what is built on it (ESPnet, SUPERB's recipes):

    from ssl_audio.interop.s3prl import register

    register("my_encoder", "EXPORT")
    upstream = S3PRLUpstream("my_encoder")

SUPERB's own runner sees it too, started by ``s3prl.run_downstream.main()`` after ``register``.
Only frozen: no gradient reaches the encoder. Source of the contract: s3prl 0.4.18,
``nn/upstream.py`` and ``downstream/runner.py``. Axes: B clips, S samples, T frames, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ssl_audio.batch import SAMPLE_RATE_HZ
from ssl_audio.interop.frozen import FrozenEncoder
from ssl_audio.probes.sources import Patches
from ssl_audio.probes.superb.featurizer import match_frames, num_matched_frames, widened


class UpstreamExpert(FrozenEncoder):
    """All hidden states, early ones first, as many frames as s3prl expects and equally wide.

    Layers narrower than the widest have zeros behind their channels. Where the clock of a clip ends
    early, its last frame is repeated. Of an encoder of patches a frame is the patches of one
    stretch of time, side by side.

    Args:
        ckpt: anything that ``ssl_audio.load_encoder`` opens.
        model_config: ignored, as all is in the export.
        patches: see ``EncoderLayers``.

    Raises:
        ValueError: no checkpoint, or one that cannot be opened.
    """

    def __init__(
        self,
        ckpt: str = "",
        model_config: Any = None,
        patches: Patches = "concat",
        **unused: Any,
    ) -> None:
        if not ckpt:
            raise ValueError("no model; give the folder of an exported encoder as ckpt")
        super().__init__(ckpt, None, patches)
        self.stride = round(SAMPLE_RATE_HZ / self.source.frame_rate)

    def get_downsample_rates(self, key: str) -> int:
        """Samples from one frame to the next."""
        return self.stride

    def forward(self, wavs: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """(S,) waveforms at 16 kHz to ``hidden_states``: (B, T, D) for each layer."""
        samples = torch.tensor([len(wave) for wave in wavs])
        wanted = num_matched_frames(samples, self.stride).clamp(min=1)
        clips = self.layers(wavs)
        counts = torch.tensor([len(next(iter(layers.values()))) for layers in clips])
        dim = max(self.widths.values())
        padded = (
            torch.nn.utils.rnn.pad_sequence([clip[name] for clip in clips], batch_first=True)
            for name in self.widths
        )
        return {"hidden_states": [match_frames(widened(x, dim), counts, wanted) for x in padded]}


def register(name: str, ckpt: str, **options: Any) -> None:
    """Makes ``S3PRLUpstream(name)`` an encoder of ours.

    Args:
        name: of the upstream.
        ckpt: anything that ``ssl_audio.load_encoder`` opens; ``path_or_url`` replaces it.
        options: of ``UpstreamExpert``.

    Raises:
        ModuleNotFoundError: s3prl is not installed.
        ValueError: a name that s3prl has already.
    """
    from s3prl import hub

    if hasattr(hub, name):
        raise ValueError(f"s3prl has an upstream {name!r} already; choose another name")
    setattr(hub, name, partial(_entry, ckpt, options))


def _entry(
    registered: str, options: dict[str, Any], ckpt: str | None = None, **changed: Any
) -> UpstreamExpert:
    return UpstreamExpert(ckpt or registered, **{**options, **changed})
