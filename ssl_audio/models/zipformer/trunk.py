"""The stacks in sequence: embedded frames to every layer's output and the encoder's.

Axes: B clips, T frames (50 Hz), C channels of a stack.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssl_audio.batch import valid_mask
from ssl_audio.models.zipformer.config import ZipformerConfig
from ssl_audio.models.zipformer.schedules import PiecewiseLinear, Scheduled
from ssl_audio.models.zipformer.stack import Downsample, DownsampledStack, LayerStack

FEATURE_MASK_RATE = 0.125
LAYER_SKIP_START, LAYER_SKIP_END, LAYER_SKIP_BATCHES = 0.5, 0.035, 4000.0


class ZipformerTrunk(Scheduled):
    """Everything between the embedding and the output, under the name ``encoder`` officially."""

    def __init__(self, config: ZipformerConfig) -> None:
        super().__init__()
        self.dims = config.encoder_dim
        self.unmasked_dims = config.encoder_unmasked_dim
        self.factors = config.downsampling_factor
        self.exact = config.padding == "exact"
        self.encoders = nn.ModuleList(_build_stack(config, i) for i in range(config.num_stacks))
        self.downsample_output = (
            Downsample(2) if config.output_downsampling_factor == 2 else nn.Identity()
        )

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """(B, T, C_0) and valid frames (B,), all when None, to frames and layer outputs.

        The layer outputs are at T frames whatever the output rate; those of downsampled stacks are
        taken before the combination with the stack's input.
        """
        padding = None if lengths is None else ~valid_mask(lengths, x.shape[1])
        window_lengths = lengths if self.exact else None
        feature_masks = self._feature_masks(x)
        states: list[Tensor] = []
        stack_outputs: list[Tensor] = []
        for stack, dim, factor, feature_mask in zip(
            self.encoders, self.dims, self.factors, feature_masks, strict=True
        ):
            x = fit_channels(x, dim)
            if factor == 1:
                x, outputs = stack(x, padding, feature_mask)
            else:
                stack_padding = None if padding is None else padding[:, ::factor]
                x, outputs = stack(x, stack_padding, feature_mask, window_lengths)
            states += outputs
            stack_outputs.append(x)
        x = gather_channels(stack_outputs)
        if isinstance(self.downsample_output, Downsample):
            x = self.downsample_output(x, window_lengths)
        return x, states

    def _feature_masks(self, x: Tensor) -> list[Tensor | None]:
        """Per stack (B, 1, C): a clip may lose half or all of its channels beyond the unmasked."""
        if not self.active:
            return [None] * len(self.dims)
        first, second = (torch.rand(2, len(x), 1, 1) >= FEATURE_MASK_RATE).to(x.device, x.dtype)
        masks: list[Tensor | None] = []
        for dim, unmasked in zip(self.dims, self.unmasked_dims, strict=True):
            half = (dim - unmasked) // 2
            parts = [torch.ones_like(first).expand(-1, -1, unmasked), first.expand(-1, -1, half)]
            parts.append((first * second).expand(-1, -1, dim - unmasked - half))
            masks.append(torch.cat(parts, dim=-1))
        return masks


def fit_channels(x: Tensor, dim: int) -> Tensor:
    """(..., C) to (..., dim): cut, or extended with zeros."""
    channels = x.shape[-1]
    return x[..., :dim] if dim <= channels else nn.functional.pad(x, (0, dim - channels))


def gather_channels(stack_outputs: list[Tensor]) -> Tensor:
    """The last output, extended by the channels that only wider, earlier stacks have.

    Each missing channel comes from the latest stack that has it.
    """
    parts = [stack_outputs[-1]]
    have = stack_outputs[-1].shape[-1]
    for output in reversed(stack_outputs[:-1]):
        if output.shape[-1] > have:
            parts.append(output[..., have:])
            have = output.shape[-1]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _build_stack(config: ZipformerConfig, index: int) -> nn.Module:
    factor = config.downsampling_factor[index]
    sizes = config.layer_sizes(index)
    stack = LayerStack(sizes, _layer_skips(config, index))
    return stack if factor == 1 else DownsampledStack(stack, sizes.dim, factor)


def _layer_skips(config: ZipformerConfig, index: int) -> list[PiecewiseLinear]:
    """Skip rate of each layer of a stack: later layers come in later, fast stacks skip less."""
    num_layers = config.num_encoder_layers[index]
    begin = LAYER_SKIP_BATCHES * (index + 1) / (config.num_stacks + 1)
    span = LAYER_SKIP_BATCHES / (config.num_stacks + 1) / num_layers
    end_rate = LAYER_SKIP_END * math.sqrt(config.downsampling_factor[index])
    return [
        PiecewiseLinear(((begin + span * i, LAYER_SKIP_START), (begin + span * (i + 1), end_rate)))
        for i in range(num_layers)
    ]
