"""Waveform to projected frames: HuBERT's convolutions and the projection behind them.

Axes: B clips, S samples, C channels, T frames, D hidden channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ssl_audio.models.hubert.config import HubertConfig
from ssl_audio.models.hubert.recording import RecordingNorms
from ssl_audio.models.padding import conv_frames, norm_over_valid

GROUP_NORM_EPS = 1e-5  # fixed in the original


class ConvLayer(nn.Module):
    """One convolution without bias, in the first layer a group norm over time, GELU."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, stride: int, norm: bool
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, channels, kernel, stride, bias=False)
        nn.init.kaiming_normal_(self.conv.weight)
        self.layer_norm = nn.GroupNorm(channels, channels, GROUP_NORM_EPS) if norm else None

    def forward(
        self, x: Tensor, lengths: Tensor | None, norms: RecordingNorms | None = None
    ) -> Tensor:
        """(B, C_in, T_in) to (B, C, T); ``lengths`` (B,) are the output's valid frames."""
        x = self.conv(x)
        if self.layer_norm is not None and norms is not None:
            x = norms.normalized(self.layer_norm, x)
        elif self.layer_norm is not None:
            x = norm_over_valid(self.layer_norm, x, lengths)
        return F.gelu(x)


class FeatureExtractor(nn.Module):
    """Stack of unpadded convolutions, 20 ms per frame in the original."""

    norms: RecordingNorms | None = None  # set while windows of a long recording pass

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.first_layer = config.conv_layers[:1]
        in_channels = (1, *config.conv_dim[:-1])
        self.conv_layers = nn.ModuleList(
            ConvLayer(before, *sizes, norm=index == 0)
            for index, (before, sizes) in enumerate(
                zip(in_channels, config.conv_layers, strict=True)
            )
        )

    def forward(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, S) to (B, C, T). ``lengths`` (B,) are valid samples for the group norm, or None to
        normalise over everything."""
        x = waveforms[:, None]
        if lengths is not None:
            lengths = conv_frames(lengths, self.first_layer)
        for layer in self.conv_layers:
            x = layer(x, lengths, self.norms)
        return x


class FeatureProjection(nn.Module):
    """Layer norm, then a linear map to the Transformer's width."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        channels = config.conv_dim[-1]
        self.layer_norm = nn.LayerNorm(channels, config.layer_norm_eps)
        self.projection = nn.Linear(channels, config.hidden_size)
        bound = channels**-0.5
        nn.init.uniform_(self.projection.weight, -bound, bound)
        nn.init.uniform_(self.projection.bias, -bound, bound)
        self.dropout = nn.Dropout(config.feat_proj_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, D)."""
        return self.dropout(self.projection(self.layer_norm(x)))
