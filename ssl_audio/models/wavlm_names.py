"""The WavLM authors' checkpoint in torchaudio's terms: one table of settings, one of names.

Source: github.com/microsoft/unilm, wavlm/WavLM.py and modules.py.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# torchaudio's argument -> key of the official cfg
PARAMS = {
    "extractor_conv_bias": "conv_bias",
    "encoder_embed_dim": "encoder_embed_dim",
    "encoder_projection_dropout": "dropout_input",
    "encoder_pos_conv_kernel": "conv_pos",
    "encoder_pos_conv_groups": "conv_pos_groups",
    "encoder_num_layers": "encoder_layers",
    "encoder_num_heads": "encoder_attention_heads",
    "encoder_num_buckets": "num_buckets",
    "encoder_max_distance": "max_distance",
    "encoder_attention_dropout": "attention_dropout",
    "encoder_ff_interm_features": "encoder_ffn_embed_dim",
    "encoder_ff_interm_dropout": "activation_dropout",
    "encoder_dropout": "dropout",
    "encoder_layer_norm_first": "layer_norm_first",
    "encoder_layer_drop": "encoder_layerdrop",
}

# official name -> torchaudio's, applied in this order
CONV, POSITIONS = "feature_extractor.conv_layers", "encoder.transformer.pos_conv_embed.conv"
NAMES = (
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", rf"{CONV}.\1.conv."),
    (r"^feature_extractor\.conv_layers\.(\d+)\.2\.(1\.)?", rf"{CONV}.\1.layer_norm."),
    (r"^layer_norm\.", "encoder.feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "encoder.feature_projection.projection."),
    (r"^encoder\.pos_conv\.0\.weight_g$", f"{POSITIONS}.parametrizations.weight.original0"),
    (r"^encoder\.pos_conv\.0\.weight_v$", f"{POSITIONS}.parametrizations.weight.original1"),
    (r"^encoder\.pos_conv\.0\.bias$", f"{POSITIONS}.bias"),
    (r"^encoder\.layer_norm\.", "encoder.transformer.layer_norm."),
    (r"^encoder\.layers\.", "encoder.transformer.layers."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
    (r"\.self_attn\.relative_attention_bias\.", ".attention.rel_attn_embed."),
    (r"\.self_attn\.grep_linear\.", ".attention.gru_rel_pos_linear."),
    (r"\.self_attn\.grep_a$", ".attention.gru_rel_pos_const"),
    (r"\.self_attn\.", ".attention.attention."),
)
PRETRAINING_ONLY = ("mask_emb", "final_proj", "label_embs_concat")


def params(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of ``torchaudio.models.wavlm_model`` from the official cfg."""
    return {
        "extractor_mode": "layer_norm" if cfg["extractor_mode"] == "layer_norm" else "group_norm",
        "extractor_conv_layer_config": _arithmetic(cfg["conv_feature_layers"]),
        **{ours: cfg[theirs] for ours, theirs in PARAMS.items()},
    }


def state_dict(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The official weights under torchaudio's names, the three projections packed into one."""
    renamed = {}
    for name, x in official.items():
        if not name.startswith(PRETRAINING_ONLY):
            for pattern, replacement in NAMES:
                name = re.sub(pattern, replacement, name)
            renamed[name] = x
    for query in [name for name in renamed if ".attention.attention.q_proj." in name]:
        parts = [renamed.pop(query.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        renamed[query.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return renamed


def _arithmetic(text: str) -> list[Any]:
    """The list written as ``[(512, 10, 5)] + [(512, 3, 2)] * 4``, without evaluating code."""

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return value(node.left) + value(node.right)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            return value(node.left) * value(node.right)
        return ast.literal_eval(node)

    return list(value(ast.parse(text, mode="eval").body))
