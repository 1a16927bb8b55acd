"""Zipformer's configuration in the official form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ssl_audio.models.zipformer.layer import LayerSizes

# Keys of the official config.json that do not change a non-causal encoder.
IGNORED_KEYS = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "chunk_size",
    "dtype",
    "left_context_frames",
    "model_type",
    "return_dict",
    "torch_dtype",
    "transformers_version",
}
PADDINGS = ("exact", "reference")


@dataclass(frozen=True, slots=True)
class ZipformerConfig:
    """Sizes of a Zipformer; the defaults are SPEAR Base (93 M parameters).

    The tuples have one entry per stack; a single entry, or a plain number, serves every stack.

    Attributes:
        num_mel_bins: input features; 0 builds an encoder without front end and embedding.
        embed_channels: of the three convolutions in front.
        output_downsampling_factor: 1 or 2, output at 50 or 25 Hz.
        downsampling_factor: each stack's frame rate is 50 Hz over this.
        num_encoder_layers, encoder_dim, feedforward_dim, num_heads, cnn_module_kernel: per stack.
        encoder_unmasked_dim: channels that training never masks, per stack.
        query_head_dim, pos_head_dim, value_head_dim: per head, per stack.
        pos_dim: channels of the relative positional encoding, even.
        padding: "exact" keeps padding out of every valid frame; "reference" reproduces the
            original, where the last frames of a padded clip differ from the clip alone.
        regularize: whether training uses skips, dropout, feature masks, Balancer and Whiten.
        causal: only False.
    """

    num_mel_bins: int = 128
    embed_channels: tuple[int, ...] = (8, 32, 128)
    output_downsampling_factor: int = 1
    downsampling_factor: tuple[int, ...] = (1, 2, 4, 8, 4, 2, 1)
    num_encoder_layers: tuple[int, ...] = (1, 2, 3, 3, 1, 1, 1)
    feedforward_dim: tuple[int, ...] = (1536,)
    encoder_dim: tuple[int, ...] = (512,)
    encoder_unmasked_dim: tuple[int, ...] = (256,)
    cnn_module_kernel: tuple[int, ...] = (31, 31, 15, 15, 15, 31, 31)
    num_heads: tuple[int, ...] = (8,)
    query_head_dim: tuple[int, ...] = (32,)
    pos_head_dim: tuple[int, ...] = (4,)
    value_head_dim: tuple[int, ...] = (12,)
    pos_dim: int = 48
    padding: str = "exact"
    regularize: bool = True
    causal: bool = False

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """From the official dict: tuples, lists, single numbers or strings such as "1,2,4".

        Raises:
            ValueError: an unknown key or a value that does not make a Zipformer, named.
        """
        known = {field.name: field.default for field in fields(cls)}
        unknown = sorted(set(config) - set(known) - IGNORED_KEYS)
        if unknown:
            raise ValueError(f"unknown Zipformer config keys {unknown}; known: {sorted(known)}")
        values = {key: config.get(key, default) for key, default in known.items()}
        num_stacks = len(_integers("downsampling_factor", values["downsampling_factor"]))
        for key, default in known.items():
            if isinstance(default, tuple):
                stacks = len(default) if key == "embed_channels" else num_stacks
                values[key] = _per_stack(key, values[key], stacks)
        parsed = cls(**values)
        parsed._check()
        return parsed

    def _check(self) -> None:
        wrong = {
            "causal": self.causal,
            "padding": self.padding not in PADDINGS,
            "output_downsampling_factor": self.output_downsampling_factor not in (1, 2),
            "pos_dim": self.pos_dim < 2 or self.pos_dim % 2 == 1,
            "num_mel_bins": self.num_mel_bins != 0 and self.num_mel_bins < 7,
            "cnn_module_kernel": any(kernel % 2 == 0 for kernel in self.cnn_module_kernel),
            "encoder_dim": any(dim % 4 for dim in self.encoder_dim),
            "encoder_unmasked_dim": any(
                unmasked > dim
                for unmasked, dim in zip(self.encoder_unmasked_dim, self.encoder_dim, strict=True)
            ),
        }
        allowed = {
            "causal": "False",
            "padding": f"one of {PADDINGS}",
            "output_downsampling_factor": "1 or 2",
            "pos_dim": "even",
            "num_mel_bins": "0 or at least 7",
            "cnn_module_kernel": "odd",
            "encoder_dim": "multiples of 4",
            "encoder_unmasked_dim": "at most encoder_dim",
        }
        for key, is_wrong in wrong.items():
            if is_wrong:
                raise ValueError(f"Zipformer {key}={getattr(self, key)!r}: must be {allowed[key]}")

    @property
    def num_stacks(self) -> int:
        return len(self.downsampling_factor)

    def layer_sizes(self, stack: int) -> LayerSizes:
        """Dimensions of the layers of one stack."""
        return LayerSizes(
            dim=self.encoder_dim[stack],
            pos_dim=self.pos_dim,
            num_heads=self.num_heads[stack],
            query_head_dim=self.query_head_dim[stack],
            pos_head_dim=self.pos_head_dim[stack],
            value_head_dim=self.value_head_dim[stack],
            feedforward_dim=self.feedforward_dim[stack],
            cnn_module_kernel=self.cnn_module_kernel[stack],
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; ``parse`` reads it back."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }


def _integers(key: str, value: Any) -> tuple[int, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, Iterable):
        parts = [parts]
    try:
        numbers = tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise ValueError(f"Zipformer {key}={value!r}: must be positive integers, one per stack")
    return numbers


def _per_stack(key: str, value: Any, num_stacks: int) -> tuple[int, ...]:
    numbers = _integers(key, value)
    if len(numbers) not in (1, num_stacks):
        raise ValueError(f"Zipformer {key}={value!r}: has {len(numbers)} entries, not {num_stacks}")
    return numbers * num_stacks if len(numbers) == 1 else numbers
