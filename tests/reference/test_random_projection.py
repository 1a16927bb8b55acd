"""RandomProjectionTokenizer against OpenBEATs: every ``random_projection*.safetensors``."""

from __future__ import annotations

import json

import torch

from ssl_audio.tokenizers import RandomProjectionTokenizer


def test_codes_are_equal(golden):
    """On the features of the pre-training fixture of the same suffix."""
    features = {case.name: case.tensors for case in golden("beats/openbeats_pretrain*_io")}
    for case in golden("beats/random_projection*"):
        config = json.loads(case.meta["config"])
        assert not config["conv_bias"]
        tokenizer = RandomProjectionTokenizer(
            codebook_size=config["quant_n"],
            codebook_dim=config["quant_dim"],
            embed_dim=config["embed_dim"],
            patch_size=config["input_patch_size"],
            fbank_mean=config["fbank_mean"],
            fbank_std=config["fbank_std"],
        )
        tables = ("patch_weight", "projection", "codebook")
        names = {"projection": "projection_weight"}
        tokenizer.load_state_dict({name: case.tensors[names.get(name, name)] for name in tables})
        suffix = case.name.removeprefix("random_projection")
        inputs = features[f"openbeats_pretrain{suffix}_io"]
        tokens = tokenizer.encode_features(
            tokenizer.normalize(inputs["fbank"]), inputs["fbank_lengths"]
        )
        assert torch.equal(tokens.lengths, case.tensors["code_lengths"]), case.name
        valid = tokens.codes[..., 0] >= 0
        assert valid.sum() == tokens.lengths.sum()
        assert torch.equal(tokens.codes[..., 0][valid], case.tensors["codes"][valid]), case.name
