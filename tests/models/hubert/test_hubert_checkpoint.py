"""Official containers: prefixes, names, truncation, and files that are something else."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import save_file

import ssl_audio
from ssl_audio.checkpoints import CheckpointError
from ssl_audio.models import HubertEncoder

POSITIONS = "encoder.pos_conv_embed.conv."


def below(prefix, tensors):
    return {prefix + name: x for name, x in tensors.items()}


def old_names(tensors):
    """With the weight norm's names of older torch."""
    renamed = {
        f"{POSITIONS}parametrizations.weight.original0": f"{POSITIONS}weight_g",
        f"{POSITIONS}parametrizations.weight.original1": f"{POSITIONS}weight_v",
    }
    return {renamed.get(name, name): x for name, x in tensors.items()}


def containers(tensors):
    """The files of section 1.2 of the method's sources, with the parts that are not the encoder."""
    lightning = {"epoch": 1, "global_step": 10, "hyper_parameters": {"lr": 1e-4}}
    thresholder = below("net.thresholder.", {"signal_mean": torch.ones(1)})
    heads = {
        "cls_token": torch.ones(64),
        "temp_s": torch.ones(1),
        "final_lin.0.bias": torch.ones(3),
    }
    copy = below("net.", {"regressor.weight": torch.ones(2)})
    return {
        "sylber.ckpt": tensors,
        "old.ckpt": old_names(tensors),
        "synthesis.ckpt": {**lightning, "state_dict": below("net.speech_model.", tensors) | copy},
        "plain_net.ckpt": {**lightning, "state_dict": below("net.", tensors) | thresholder},
        "train.ckpt": {
            **lightning,
            "state_dict": below("net.speech_model.", tensors) | thresholder,
        },
        "ema_dict.ckpt": {"ema": tensors},
        "sdhubert_base.pt": {
            "config": {"layers": 3},
            "state_dict": below("speech_model.", old_names(tensors)) | heads,
        },
        "ctc.bin": below("hubert.", tensors) | {"lm_head.bias": torch.ones(3)},
    }


@torch.no_grad()
def test_every_official_container(tiny, padded, tmp_path):
    encoder = tiny()
    expected = encoder(*padded).frames
    for name, content in containers(encoder.state_dict()).items():
        torch.save(content, tmp_path / name)
        # load_encoder opens SD-HuBERT's file with its aggregator (tests/models/test_sdhubert.py)
        is_sdhubert = name == "sdhubert_base.pt"
        loads = [HubertEncoder.from_checkpoint, *([] if is_sdhubert else [ssl_audio.load_encoder])]
        for load in loads:
            loaded = load(tmp_path / name)
            assert isinstance(loaded, HubertEncoder), name
            assert torch.equal(loaded.eval()(*padded).frames, expected), name
    save_file(encoder.state_dict(), tmp_path / "weights.safetensors")
    assert torch.equal(
        ssl_audio.load_encoder(tmp_path / "weights.safetensors")(*padded).frames, expected
    )


@torch.no_grad()
def test_the_first_layers_of_a_file(tiny, padded, tmp_path):
    encoder = tiny()
    torch.save(containers(encoder.state_dict())["sdhubert_base.pt"], tmp_path / "sdhubert_base.pt")
    two = HubertEncoder.from_checkpoint(tmp_path / "sdhubert_base.pt", num_layers=2).eval()
    assert two.num_layers == 2
    assert torch.equal(two(*padded).frames, encoder(*padded).hidden_states[2])
    with pytest.raises(ValueError, match="16 missing"):
        HubertEncoder.from_checkpoint(tmp_path / "sdhubert_base.pt", num_layers=4)
    copy = HubertEncoder.from_encoder(encoder, num_hidden_layers=2).eval()
    assert torch.equal(copy(*padded).frames, two(*padded).frames)


@torch.no_grad()
def test_a_transformers_folder_with_its_config(tmp_path, clips):
    config = transformers.HubertConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=16,
        conv_dim=[8, 8],
        conv_kernel=[10, 4],
        conv_stride=[5, 3],
        num_conv_pos_embeddings=7,
        num_conv_pos_embedding_groups=2,
        layer_norm_eps=1e-3,
    )
    model = transformers.HubertModel(config).eval()
    model.save_pretrained(tmp_path)
    encoder = HubertEncoder.from_checkpoint(tmp_path).eval()
    waves = clips[0][None]
    theirs = model(waves, output_hidden_states=True).hidden_states
    ours = encoder.forward_features(waves).hidden_states
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4)


def test_strict(tiny):
    encoder = tiny()
    tensors, config = encoder.state_dict(), encoder.config
    bias = "encoder.layers.1.attention.q_proj.bias"
    broken = [
        ("1 missing", {name: x for name, x in tensors.items() if name != bias}),
        ("1 unexpected", tensors | {"encoder.other": torch.zeros(1)}),
        ("1 of another shape", tensors | {bias: torch.zeros(3)}),
    ]
    for problem, state in broken:
        with pytest.raises(CheckpointError, match=problem):
            HubertEncoder.from_state_dict(state, config)
    no_mask = {name: x for name, x in tensors.items() if name != "masked_spec_embed"}
    assert not HubertEncoder.from_state_dict(no_mask, config).masked_spec_embed.any()
    with pytest.raises(ValueError, match="do_stable_layer_norm=True: only False is supported"):
        HubertEncoder.from_state_dict(tensors, config | {"do_stable_layer_norm": True})


class Payload:
    """Pickles to a call."""

    def __reduce__(self) -> tuple:
        return (print, ("unpickled",))


def test_unusable_files_end_in_one_line(tiny, tmp_path, capsys):
    tensors = tiny().state_dict()
    torch.save(tensors | {"config": Payload()}, tmp_path / "code.ckpt")
    torch.save(tensors, tmp_path / "whole.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "whole.ckpt").read_bytes()[:5000])
    torch.save({"state_dict": {"net.other.weight": torch.zeros(1)}}, tmp_path / "foreign.ckpt")
    half = {name: x for name, x in tensors.items() if "layer_norm" not in name}
    torch.save(half, tmp_path / "half.ckpt")
    narrow = HubertEncoder(
        hidden_size=32, num_attention_heads=4, num_hidden_layers=1, num_conv_pos_embeddings=4
    )
    torch.save(narrow.state_dict(), tmp_path / "narrow.ckpt")
    for name, message in [
        ("code.ckpt", "pickled Python objects"),
        ("cut.ckpt", "truncated or not a checkpoint"),
        ("foreign.ckpt", "holds no HuBERT"),
        ("half.ckpt", "lacks 'encoder.layer_norm.weight' of a HuBERT"),
        ("narrow.ckpt", "how many heads share 32 channels"),
        ("absent.ckpt", "does not exist"),
    ]:
        with pytest.raises(CheckpointError, match=message) as caught:
            HubertEncoder.from_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert "unpickled" not in capsys.readouterr().out
    config = narrow.config | {"model_type": "hubert"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert HubertEncoder.from_checkpoint(tmp_path / "narrow.ckpt").config == narrow.config
