"""BEATs' configuration in the official form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ssl_audio.models.beats.activations import ACTIVATIONS

PADDINGS = ("exact", "reference")
NUM_MEL_BINS = 128
# What the official class assumes where a checkpoint's cfg is silent (BEATs.py, BEATsConfig), where
# that differs from the released models.
OFFICIAL_DEFAULTS = {
    "deep_norm": False,
    "dropout_input": 0.0,
    "encoder_layerdrop": 0.0,
    "gru_rel_pos": False,
    "input_patch_size": -1,
    "max_distance": 1280,
    "relative_position_embedding": False,
}
# Keys of OpenBEATs' configs that belong to its label predictor, estimator or loss.
IGNORED_KEYS = {
    "codebook_vocab_size",
    "decoder_attention_heads",
    "decoder_embed_dim",
    "decoder_layers",
    "decoder_mlp_ratio",
    "decoder_pos_trainable",
    "embed_loss_beta",
    "ignore_id",
    "label_smoothing",
    "mask_ratio",
    "use_flash_attn",
}
TOKENIZER_KEYS = {"quant_n", "quant_dim"}


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """A stack of BEATs' Transformer layers.

    Attributes:
        dim, ffn_dim, num_heads, num_layers: sizes.
        activation: a name of ``activations.ACTIVATIONS``, or "glu".
        dropout, attention_dropout, activation_dropout: probabilities.
        layerdrop: probability with which training skips a layer.
        layer_norm_first: pre-norm instead of post-norm.
        deep_norm: residuals scaled by (2 num_layers) ** 0.25 and the initial weights to match.
        num_buckets: of the relative position bias; 0 for none.
        max_distance: from here on all positions share the last bucket.
        gated: the bias is gated by the query (gru_rel_pos).
        gradient_decay: factor on the gradient at every layer's input.
    """

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    activation: str = "gelu"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    layerdrop: float = 0.0
    layer_norm_first: bool = False
    deep_norm: bool = True
    num_buckets: int = 320
    max_distance: int = 800
    gated: bool = True
    gradient_decay: float = 1.0

    def __post_init__(self) -> None:
        exact = self.num_buckets // 4
        dropouts = (self.dropout, self.attention_dropout, self.activation_dropout)
        wrong = {
            "sizes": min(self.dim, self.ffn_dim, self.num_heads, self.num_layers) < 1,
            "num_heads": self.num_heads < 1 or self.dim % self.num_heads,
            "activation": self.activation not in (*ACTIVATIONS, "glu"),
            "glu": self.activation == "glu" and self.deep_norm,
            "deep_norm": self.deep_norm and self.layer_norm_first,
            "num_buckets": self.num_buckets != 0 and self.num_buckets < 4,
            "max_distance": exact > 0 and self.max_distance <= exact,
            "layerdrop": not 0 <= self.layerdrop < 1,
            "dropout": not all(0 <= x < 1 for x in dropouts),
        }
        allowed = {
            "sizes": "layers, heads and dimensions must be positive",
            "num_heads": f"{self.num_heads} heads must divide the {self.dim} channels",
            "activation": f"activation {self.activation!r} must be one of {[*ACTIVATIONS, 'glu']}",
            "glu": "deep_norm does not go with activation glu: set deep_norm=False",
            "deep_norm": "deep_norm is for post-norm: set layer_norm_first=False",
            "num_buckets": f"num_buckets={self.num_buckets} must be 0 or at least 4",
            "max_distance": f"max_distance={self.max_distance} must exceed num_buckets / 4",
            "layerdrop": f"layerdrop={self.layerdrop} must lie in [0, 1)",
            "dropout": f"dropouts {dropouts} must lie in [0, 1)",
        }
        for key, is_wrong in wrong.items():
            if is_wrong:
                raise ValueError(f"BEATs config: {allowed[key]}")


@dataclass(frozen=True, slots=True)
class BeatsConfig:
    """A BEATs encoder under the official names; the defaults are the released SSL models (90 M).

    Source: microsoft/unilm ``beats/BEATs.py`` and the ``cfg`` of BEATs_iter3_plus_AS2M. Keys that
    are not official:

    Attributes:
        fbank_mean, fbank_std: features are (log-mel - mean) / (2 std).
        padding: "exact" keeps a clip's patches free of padding and of batch neighbours;
            "reference" folds masks as the original does, where the end of a clip is approximate.
        labels: names of the ``predictor_class`` classes in order, if known.
    """

    input_patch_size: int = 16
    embed_dim: int = 512
    conv_bias: bool = False
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    activation_fn: str = "gelu"
    layer_wise_gradient_decay_ratio: float = 1.0
    layer_norm_first: bool = False
    deep_norm: bool = True
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    encoder_layerdrop: float = 0.05
    dropout_input: float = 0.1
    conv_pos: int = 128
    conv_pos_groups: int = 16
    relative_position_embedding: bool = True
    num_buckets: int = 320
    max_distance: int = 800
    gru_rel_pos: bool = True
    finetuned_model: bool = False
    predictor_dropout: float = 0.1
    predictor_class: int = 527
    fbank_mean: float = 15.41663
    fbank_std: float = 6.55582
    padding: str = "exact"
    labels: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """From keys of this class; those of OpenBEATs' training parts are left out.

        Raises:
            ValueError: an unknown key or a value that does not make a BEATs encoder, named.
        """
        known = {field.name for field in fields(cls)}
        if TOKENIZER_KEYS & config.keys():
            raise ValueError("BEATs config has quant_n: it is a tokenizer's, use load_tokenizer")
        unknown = sorted(config.keys() - known - IGNORED_KEYS, key=str)
        if unknown:
            raise ValueError(f"unknown BEATs config keys {unknown}; known: {sorted(known)}")
        values = {key: value for key, value in config.items() if key in known}
        for field in fields(cls):
            _check_type(field.name, values.get(field.name, field.default), field.default)
        if values.get("labels") is not None:
            values["labels"] = tuple(values["labels"])
        parsed = cls(**values)
        parsed._check()
        return parsed

    @classmethod
    def parse_official(cls, config: Mapping[str, Any]) -> Self:
        """The ``cfg`` of a checkpoint, with the official class's defaults for absent keys."""
        return cls.parse({**OFFICIAL_DEFAULTS, **config})

    def _check(self) -> None:
        self.transformer()
        wrong = {
            "input_patch_size": not 1 <= self.input_patch_size <= NUM_MEL_BINS,
            "embed_dim": self.embed_dim < 1,
            "conv_pos": self.conv_pos < 1,
            "conv_pos_groups": self.conv_pos_groups < 1
            or self.encoder_embed_dim % self.conv_pos_groups,
            "fbank_std": not self.fbank_std > 0,
            "padding": self.padding not in PADDINGS,
            "dropout_input": not 0 <= self.dropout_input < 1,
            "predictor_dropout": not 0 <= self.predictor_dropout < 1,
            "predictor_class": self.finetuned_model and self.predictor_class < 1,
            "labels": self.labels is not None and len(self.labels) != self.predictor_class,
        }
        allowed = {
            "input_patch_size": f"1 to {NUM_MEL_BINS}",
            "embed_dim": "positive",
            "conv_pos": "positive",
            "conv_pos_groups": "a divisor of encoder_embed_dim",
            "fbank_std": "positive",
            "padding": f"one of {PADDINGS}",
            "dropout_input": "in [0, 1)",
            "predictor_dropout": "in [0, 1)",
            "predictor_class": "positive",
            "labels": f"{self.predictor_class} names, as predictor_class says",
        }
        for key, is_wrong in wrong.items():
            if is_wrong:
                raise ValueError(f"BEATs {key}={getattr(self, key)!r}: must be {allowed[key]}")

    def transformer(self) -> TransformerConfig:
        """The layers; ``dataclasses.replace`` it for an estimator or a label predictor."""
        return TransformerConfig(
            dim=self.encoder_embed_dim,
            ffn_dim=self.encoder_ffn_embed_dim,
            num_heads=self.encoder_attention_heads,
            num_layers=self.encoder_layers,
            activation=self.activation_fn,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            activation_dropout=self.activation_dropout,
            layerdrop=self.encoder_layerdrop,
            layer_norm_first=self.layer_norm_first,
            deep_norm=self.deep_norm,
            num_buckets=self.num_buckets if self.relative_position_embedding else 0,
            max_distance=self.max_distance,
            gated=self.gru_rel_pos,
            gradient_decay=self.layer_wise_gradient_decay_ratio,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; ``parse`` reads it back."""
        labels = None if self.labels is None else list(self.labels)
        return {**asdict(self), "labels": labels}


def _check_type(name: str, value: Any, default: Any) -> None:
    """Raises ValueError where ``value`` is not what the default is; whole numbers may be floats."""
    if default is None:
        expected = "a list of names"
        fits = value is None or (
            isinstance(value, (list, tuple)) and all(isinstance(x, str) for x in value)
        )
    else:
        expected = f"of type {type(default).__name__}"
        is_whole = isinstance(default, float) and type(value) is int
        fits = is_whole or type(value) is type(default)
    if not fits:
        raise ValueError(f"BEATs {name}={value!r}: must be {expected}")
