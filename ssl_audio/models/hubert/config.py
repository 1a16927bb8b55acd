"""HuBERT's configuration under the names of ``transformers.HubertConfig``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

PADDINGS = ("exact", "reference")
# keys of an official config.json that must have this value, which is also their default
REQUIRED = {
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "hidden_act": "gelu",
    "conv_bias": False,
    "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
    "do_stable_layer_norm": False,
}


@dataclass(frozen=True, slots=True)
class HubertConfig:
    """Sizes of a HuBERT; the defaults are Base (94 M parameters, arXiv 2106.07447).

    Attributes:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: the Transformer.
        conv_dim, conv_kernel, conv_stride: one entry per convolution of the feature extractor.
        num_conv_pos_embeddings, num_conv_pos_embedding_groups: positional convolution's kernel
            and groups.
        layer_norm_eps: of every layer norm.
        hidden_dropout, attention_dropout, activation_dropout, feat_proj_dropout, layerdrop:
            probabilities in training.
        initializer_range: standard deviation of fresh linear weights.
        normalize: whether the front end brings each waveform to zero mean and unit variance.
        padding: "exact" keeps padding out of every valid frame; "reference" reproduces the
            original, whose group norm averages over padding too.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    layer_norm_eps: float = 1e-5
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    feat_proj_dropout: float = 0.0
    layerdrop: float = 0.1
    initializer_range: float = 0.02
    normalize: bool = True
    padding: str = "exact"

    def __post_init__(self) -> None:
        for key in ("conv_dim", "conv_kernel", "conv_stride"):
            object.__setattr__(self, key, tuple(getattr(self, key)))
        wrong = {
            "num_hidden_layers": (self.num_hidden_layers < 1, "at least 1"),
            "num_attention_heads": (
                self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads != 0,
                f"a divisor of hidden_size={self.hidden_size}",
            ),
            "num_conv_pos_embedding_groups": (
                self.num_conv_pos_embedding_groups < 1
                or self.hidden_size % self.num_conv_pos_embedding_groups != 0,
                f"a divisor of hidden_size={self.hidden_size}",
            ),
            "conv_dim": (
                not 0 < len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride),
                "as long as conv_kernel and conv_stride",
            ),
            "padding": (self.padding not in PADDINGS, f"one of {', '.join(PADDINGS)}"),
        }
        for key, (is_wrong, allowed) in wrong.items():
            if is_wrong:
                raise ValueError(f"HuBERT {key}={getattr(self, key)!r}: must be {allowed}")

    @classmethod
    def from_official(cls, config: Mapping[str, Any]) -> Self:
        """From the dict of a ``config.json`` of transformers; keys without a meaning here are left.

        Raises:
            ValueError: an architecture with other norms, activations or biases.
        """
        for key, value in REQUIRED.items():
            if config.get(key, value) != value:
                raise ValueError(
                    f"HuBERT {key}={config[key]!r}: only {value!r} is supported; "
                    "load the transformers folder as hf:FOLDER instead"
                )
        return cls(**{f.name: config[f.name] for f in fields(cls) if f.name in config})

    @property
    def conv_layers(self) -> list[tuple[int, int, int]]:
        """(channels, kernel, stride) of each convolution."""
        return list(zip(self.conv_dim, self.conv_kernel, self.conv_stride, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the constructor reads it back."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }
